"""The scratch folder of one gesso-serve: gone when it ends, and at the next start when it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "gesso-serve-"
OWNER = "owner"  # holds the pid of the server, and is locked while it lives: the kernel unlocks it, whatever ends it
SHARED_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the temporary one, after what dead servers left there is gone. Raises OSError."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        owner.write(str(os.getpid()))
        owner.flush()
        yield Path(name)


def shm_prefix(pid: int) -> str:
    """The names of the shared memory through which a server's Triton talks to its Python models."""
    return f"gesso_{pid}_"


def remove_shared_memory(pid: int) -> None:
    """Whatever the Triton of this server left."""
    for region in SHARED_MEMORY.glob(f"{shm_prefix(pid)}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone by itself
            region.unlink()


def _sweep(temporary: Path) -> None:
    """Remove what is provably left by dead servers: a folder whose owner file nobody locks."""
    for folder in temporary.glob(f"{PREFIX}*"):
        # Somebody else's folder, one that is locked, and one whose server has not yet written its pid stay.
        with contextlib.suppress(OSError, ValueError), (folder / OWNER).open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pid = int(owner.read())
            shutil.rmtree(folder)
            if not Path(f"/proc/{pid}").exists():  # the number may have been given again
                remove_shared_memory(pid)
