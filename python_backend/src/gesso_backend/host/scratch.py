"""What one gesso-serve has to itself while it lives, and removing what dead ones left.

A lock is held on the folder's record for as long as its server lives. Only what says that it is ours, and whose lock
nobody holds, is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gesso_backend.host import environments, shared_memory
from gesso_backend.host.place import scratch_place
from gesso_backend.triton import processes

PREFIX = "gesso-serve-"
RECORD, ENVIRONMENTS = "lock", "environments"  # files of the folder
REGIONS = re.compile(r"gesso_\d+_[0-9a-f]{8}_")  # what names of shared memory begin with


class Scratch:
    """A folder, names of shared memory, and a name for Triton, that no other server has. A context manager: what is
    left behind is removed at the end. Making one removes what dead servers left.

    Raises ServeError where there is no place for it, OSError where there is no room.
    """

    def __init__(self) -> None:
        place = scratch_place()
        sweep(place)
        self.server = f"gesso-{secrets.token_hex(16)}"  # what Triton answers to; not derived from what has to be secret
        self.regions = f"gesso_{os.getpid()}_{secrets.token_hex(4)}_"
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        self.models, self.control = self.folder / "models", self.folder / "control"
        self._environments: set[str] = set()
        try:
            self._record = self._write_record()
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()
        _remove(self.folder)
        self._record.close()

    def note(self, names: set[str]) -> None:
        """Environments that our Triton has made since the last `clear`, for whoever sweeps if we cannot."""
        if names != self._environments:
            self._environments = names
            with contextlib.suppress(OSError):  # a full disk: then they are left
                (self.folder / ENVIRONMENTS).write_text("\n".join(sorted(names)))

    def clear(self) -> None:
        """Remove what a Triton of ours that has ended left outside of the folder."""
        shared_memory.remove(self.regions)
        environments.remove(self._environments)

    def _write_record(self) -> IO[str]:
        """Named only once it is locked: it is never seen with nobody holding it."""
        pid = os.getpid()
        with contextlib.ExitStack() as undo:
            record = undo.enter_context((self.folder / "new").open("w"))
            fcntl.flock(record, fcntl.LOCK_EX)
            json.dump({"pid": pid, "started": processes.started(pid), "regions": self.regions}, record)
            record.flush()
            (self.folder / "new").rename(self.folder / RECORD)
            undo.pop_all()
        return record


def sweep(place: Path) -> None:
    """Remove folders in `place`, shared memory and environments of servers of this user that ended without doing so."""
    for folder in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # not ours, or somebody is quicker
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                _sweep(folder)


def _sweep(folder: Path) -> None:
    with (folder / RECORD).open() as record:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        known: dict[str, Any] = json.load(record)
        if processes.started(known["pid"]) == known["started"]:  # where locks do not hold
            return
        if REGIONS.fullmatch(known["regions"]):
            shared_memory.remove(known["regions"])
        with contextlib.suppress(OSError):
            environments.remove((folder / ENVIRONMENTS).read_text().splitlines())
        _remove(folder)


def _remove(folder: Path) -> None:
    """The record last: whoever is killed halfway leaves a folder that the next start knows."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != RECORD:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
