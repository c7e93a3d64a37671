"""Where the folder of a run may be: in TMPDIR, if Triton can take its name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gesso_backend.errors import ServeError
from gesso_backend.host.preflight import space_problem

NEEDED_BYTES = 2**20  # the model repository is text and links
# Triton hands the stub's path to a shell, and its Python opens no path with a letter outside ASCII.
PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # where TMPDIR is not PLAIN, or full


def scratch_place() -> Path:
    """The folder in which to make one. Raises ServeError where there is none."""
    chosen = os.environ.get("TMPDIR", "")
    if chosen and not _may_write(chosen):
        what = "this user cannot write there" if os.path.isdir(chosen) else "that is no folder"
        raise ServeError(f"TMPDIR: {chosen}: {what}; gesso-serve keeps Triton's model repository in it")
    places = [os.path.abspath(chosen)] if chosen else []
    places += [place for place in PLACES if _may_write(place)]
    plain = [Path(place) for place in places if PLAIN.fullmatch(place)]
    problems = [space_problem(place, NEEDED_BYTES) for place in plain]
    for place, problem in zip(plain, problems, strict=True):
        if problem is None:
            return place
    raise ServeError(f"TMPDIR: {problems[0] if problems else 'this user can write to none of ' + ', '.join(PLACES)}")


def _may_write(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
