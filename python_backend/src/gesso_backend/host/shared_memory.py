"""/dev/shm, through which Triton hands pictures to its Python models: what fits there bounds what may be sent."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from gesso_backend.errors import ServeError
from gesso_backend.settings import Settings

FOLDER = Path("/dev/shm")
# A picture with its mask is 4 bytes a pixel, its answer 3. Both models' pools hold it on its way to `inpaint`, and the
# answer on its way back; pools never shrink, and grow in one piece. Measured: 15 to 20 bytes.
BYTES_PER_PIXEL = 24
WAITING_SHARE = 6  # requests that wait in `inpaint_once` keep their pictures there: they may have a sixth
LEAST_PIXELS = 512 * 512
POOL_BYTES = 2**21  # what a model's process takes before any request


@dataclass(frozen=True)
class Fit:
    settings: Settings  # with bounds that fit
    waiting_mib: int  # of the pictures of requests that wait in one `inpaint_once`
    line: str | None  # for the operator, if a bound was lowered


def close_to_others(prefix: str, folder: Path = FOLDER) -> None:
    """Let this user alone read the regions with this prefix: Triton makes them for all, whatever the umask."""
    for region in folder.glob(f"{prefix}*"):
        region.chmod(0o600)


def remove(prefix: str) -> None:
    """What is left of the regions with this prefix."""
    for region in FOLDER.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.unlink()


def fit(settings: Settings, models: int, folder: Path = FOLDER) -> Fit:
    """What of `settings` fits in the shared memory that is free now.

    models: how many bundles share it. Raises ServeError when hardly a picture would fit.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ServeError(f"{folder}: {error.strerror}; Triton passes pictures through it") from None
    share = free // models - 2 * POOL_BYTES
    pixels = share // BYTES_PER_PIXEL
    has = f"{folder} has {free >> 20} MiB free"
    if pixels < LEAST_PIXELS:
        needed = (LEAST_PIXELS * BYTES_PER_PIXEL + 2 * POOL_BYTES) * models
        raise ServeError(f"{has}; at least {needed >> 20} MiB are needed, for Docker --shm-size 1g")
    waiting_mib = min(settings.max_input_mib, max(1, (share // WAITING_SHARE) >> 20))
    if settings.max_image_pixels <= pixels:
        return Fit(settings, waiting_mib, None)
    line = f"{has}: pictures of at most {pixels} pixels (for Docker, --shm-size 1g)"
    return Fit(dataclasses.replace(settings, max_image_pixels=pixels), waiting_mib, line)
