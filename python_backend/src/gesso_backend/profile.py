"""What a call of each network takes on this machine: t(rows, pixels), measured once and kept on disk."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gesso_backend.bundle import Bundle, NetworkSpec, TensorSpec
from gesso_backend.calls import Arrays
from gesso_backend.engines import Engine
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

VERSION = 1  # of the file
SPEED_SETTINGS = ("engine", "providers", "device", "batch_sizes", "max_rows", "threads", "weight_streaming_mib")
COMPUTE = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-lean-cu13")
# A row may cost this much more than in the best batch: then a larger one is not worth its wait. Under load, and else.
WORTH, LEAN = 1.10, 1.25
MOST_ROWS = {"denoiser": 16, "vae": 4, "text": 8}  # tried
TRIES = 3  # of each call; the fastest counts
SLOW_SECONDS = 1.0  # a call this long is measured once
DEFAULT_ROWS = {"vae": 1, "text": 8, "denoiser": 8}  # where nothing was measured
GUESS_SECONDS = 1e-5  # of a row and latent, where nothing was measured


@dataclass(frozen=True)
class Profile:
    """seconds: network -> pixels (or latents) of its picture -> rows -> seconds of a call."""

    seconds: Mapping[str, Mapping[int, Mapping[int, float]]] = field(default_factory=dict)

    def estimate(self, network: str, rows: int, pixels: int) -> float:
        """Seconds of a call: by rows between the measured ones, by pixels in proportion to the nearest size."""
        if not self.seconds.get(network):
            return GUESS_SECONDS * rows * pixels
        size = self._nearest(network, pixels)
        times = self.seconds[network][size]
        most = max(times)
        scale = max(1.0, rows / most) * pixels / size
        return float(np.interp(min(rows, most), sorted(times), [times[row] for row in sorted(times)])) * scale

    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        """Most rows worth batching: where a row costs nearly what it costs in the best batch.

        Of another size as many pixels in all, for a device is filled by pixels, not by rows.
        """
        if not self.seconds.get(network):
            return DEFAULT_ROWS[_kind(network)]
        size = self._nearest(network, pixels)
        times = self.seconds[network][size]
        best = min(seconds / rows for rows, seconds in times.items())
        worth = min(rows for rows, seconds in times.items() if seconds / rows <= (WORTH if crowded else LEAN) * best)
        return max(1, worth * size // pixels)

    def _nearest(self, network: str, pixels: int) -> int:
        return min(self.seconds[network], key=lambda size: abs(math.log(size / pixels)))


@dataclass(frozen=True)
class RowCaps:
    """The profile's row caps, unless the settings fix them."""

    profile: Profile
    rows: int  # of the denoiser and the text encoders; 0: the profile's
    vae_rows: int

    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        fixed = self.vae_rows if _kind(network) == "vae" else self.rows
        return fixed or self.profile.cap(network, pixels, crowded)


def measure(
    bundle: Bundle, engines: Mapping[str, Engine], budget: float, clock: Callable[[], float] = time.monotonic
) -> Profile:
    """Time every network at the native size and at half its side, at 1, 2, 4, ... rows while that pays.

    budget: seconds; when they are spent no larger batch and no further size is begun. The first call always is.
    """
    started = clock()
    seconds: dict[str, dict[int, dict[int, float]]] = {}
    for divisor in (2, 1):  # the small size first: it is cheap, and says what the large one may cost
        side = bundle.size.native // divisor // bundle.size.multiple * bundle.size.multiple
        for name in sorted(bundle.networks, key=lambda name: name != bundle.kind.denoiser):
            if side and (not seconds.get(name) or clock() - started < budget):
                pixels, times = _batches(name, bundle, engines[name], side, lambda: clock() - started < budget, clock)
                seconds.setdefault(name, {})[pixels] = times
    return Profile(seconds)


def _batches(
    name: str, bundle: Bundle, engine: Engine, side: int, more: Callable[[], bool], clock: Callable[[], float]
) -> tuple[int, dict[int, float]]:
    times: dict[int, float] = {}
    rows = 1
    while True:
        inputs = _inputs(bundle.networks[name], bundle, rows, side)
        try:
            times[rows] = _fastest(engine, inputs, clock)
        except Exception as error:  # out of memory, as each engine says it; the call before it fitted
            if not times:
                raise
            log.info("%s: %d rows of %d px do not run (%s)", name, rows, side, error)
            break
        pays = rows == 1 or times[rows] / rows < times[rows // 2] / (rows // 2) / 1.03
        if not pays or rows >= MOST_ROWS[_kind(name)] or not more():
            break
        rows *= 2
    pixels = max((array.shape[2] * array.shape[3] for array in inputs.values() if array.ndim == 4), default=1)
    return pixels, times


def _fastest(engine: Engine, inputs: Arrays, clock: Callable[[], float]) -> float:
    best = math.inf
    for _ in range(TRIES + 1):  # the first warms up
        started = clock()
        engine(**inputs)
        best = min(best, clock() - started)
        if best > SLOW_SECONDS:
            break
    return best


def _inputs(spec: NetworkSpec, bundle: Bundle, rows: int, side: int) -> Arrays:
    """Zeros of the right shapes: a call's time does not depend on what is in it."""
    pixels = spec.inputs.get("sample") is not None and spec.inputs["sample"].shape[1] == 3
    cells = side if pixels else side // bundle.vae.factor
    sizes = {"batch": rows, "tokens": next(iter(bundle.tokenizers.values())).max_length}

    def shape(tensor: TensorSpec) -> list[int]:
        return [axis if isinstance(axis, int) else sizes.get(axis, cells) for axis in tensor.shape]

    return {name: np.zeros(shape(tensor), tensor.dtype) for name, tensor in spec.inputs.items()}


def _kind(network: str) -> str:
    return network.split("_")[0] if network.startswith(("vae_", "text_")) else "denoiser"


def load_or_measure(
    bundle: Bundle, engines: Mapping[str, Engine], settings: Settings, folder: Path | None = None
) -> Profile:
    """The profile kept for this bundle, engine and machine, or a new one, kept for the next start.

    folder: where they are kept. A file that cannot be read is measured again; one that cannot be written is no error.
    """
    folder = cache_folder() if folder is None else folder
    about = {
        "version": VERSION,
        "bundle": {name: bundle.files[spec.file].sha256 for name, spec in bundle.networks.items()},
        "engine": {name: getattr(settings, name) for name in SPEED_SETTINGS} | versions(),
        "runs": getattr(engines, "kinds", {}),
        "device": device(),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{key}.json"
    try:
        return read(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, AttributeError) as error:
        log.warning("the profile %s cannot be read (%s); measuring again", path, error)
    started = time.monotonic()
    profile = measure(bundle, engines, settings.profile_seconds)
    log.info("profiled the networks in %.1f s", time.monotonic() - started)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"about": about, **asdict(profile)}, indent=1))
        part.replace(path)
    except OSError as error:
        log.warning("the profile is not kept: %s", error)
    return profile


def read(path: Path) -> Profile:
    """A kept profile. Raises OSError, ValueError, KeyError."""
    kept: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text())["seconds"]
    return Profile(
        {
            network: {int(size): {int(rows): float(s) for rows, s in times.items()} for size, times in sizes.items()}
            for network, sizes in kept.items()
        }
    )


def cache_folder() -> Path:
    """Where profiles are kept: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gesso" / "profiles"


def versions() -> dict[str, str]:
    """The installed releases of what may compute."""
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {name: found[name] for name in COMPUTE if name in found}


def device() -> str:
    """The machine, as far as its speed goes."""
    return f"{_cpu()}, {len(os.sched_getaffinity(0))} cores"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
