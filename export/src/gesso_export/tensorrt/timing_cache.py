"""TensorRT's timing cache: what the builder measured of kernels, for the next build on this GPU and version."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gesso_export.tensorrt.spec import machine_name


def folder() -> Path:
    """The user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gesso" / "tensorrt"


def path(gpu: str, tensorrt: str) -> Path:
    """A cache of another GPU would be refused by TensorRT, or mislead it; so both are in its name."""
    return folder() / f"{machine_name(gpu, tensorrt)}.timing"


def get(cache: Path, copy: Path) -> None:
    """A copy to build with: the builder rewrites the file in place, and may be killed meanwhile."""
    if cache.is_file():
        shutil.copyfile(cache, copy)


def put(copy: Path, cache: Path) -> None:
    """What a build that ended well has learned takes the cache's place. Of two builds at once the last one's stays."""
    if not copy.is_file():
        return
    part = cache.with_name(f".{cache.name}.{os.getpid()}.partial")
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        with copy.open("rb") as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        part.replace(cache)
    finally:
        part.unlink(missing_ok=True)
