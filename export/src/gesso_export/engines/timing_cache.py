"""TensorRT's timing cache: what the builder measured of kernels, kept for the next build on this GPU and version."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gesso_export.engines.spec import machine_name


def folder() -> Path:
    """The user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gesso" / "tensorrt"


def path(gpu: str, tensorrt: str) -> Path:
    """A cache of another GPU would be refused by TensorRT, or mislead it; so both are in its name."""
    return folder() / f"{machine_name(gpu, tensorrt)}.timing"


def borrow(kept: Path, copy: Path) -> None:
    """A copy to build with: the builder rewrites the file in place, and may be killed meanwhile."""
    if kept.is_file():
        shutil.copyfile(kept, copy)


def give_back(copy: Path, kept: Path) -> None:
    """Keep what a build that ended well has learned. Of two builds at once the last one's is kept."""
    if not copy.is_file():
        return
    part = kept.with_name(f".{kept.name}.{os.getpid()}.partial")
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        with copy.open("rb") as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        part.replace(kept)
    finally:
        part.unlink(missing_ok=True)
