"""The folders that Triton's Python backend makes in /tmp and leaves there when it is killed.

It makes one as it starts, under a random name, whatever TMPDIR says. gesso's models need nothing in it, so it is empty.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from gesso_backend.triton import processes

FOLDER = Path("/tmp")
NAME = re.compile(r"python_env_[A-Za-z0-9]{6}")
LIBRARY = "libtriton_python.so"
CLOCK_SECONDS = 1.0  # that the clocks of files and processes may differ by


def present() -> set[str]:
    """Names of this user's."""
    found = set()
    for name in filter(NAME.fullmatch, _names()):
        with contextlib.suppress(OSError):
            if (FOLDER / name).lstat().st_uid == os.geteuid():
                found.add(name)
    return found


def remove(names: Iterable[str]) -> None:
    """Remove those of these that are empty and older than every Triton that lives."""
    mine = present() & set(names)
    if not mine:
        return
    living = [processes.started_at(pid) for pid in processes.pids() if processes.maps(pid, LIBRARY)]
    for name in mine:
        with contextlib.suppress(OSError):  # not empty: not left by a Triton of ours
            if (FOLDER / name).stat().st_mtime + CLOCK_SECONDS < min(living, default=float("inf")):
                (FOLDER / name).rmdir()


def _names() -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(FOLDER)
    return []
