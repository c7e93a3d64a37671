"""Writing a directory that is either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from gesso_export.bundle.manifest import FILE_NAME
from gesso_export.errors import NoSpaceError, OutputError


def check_output(out: Path, force: bool) -> None:
    """Raises OutputError when `out` may not be written: it exists, and is no bundle or `force` is not given; or the
    folder that it is to be in is none, or is not writable.
    """
    if out.exists() or out.is_symlink():
        if not force:
            raise OutputError(f"{out} exists; --force replaces it")
        if out.is_symlink() or not (out / FILE_NAME).is_file():
            raise OutputError(f"{out} is not a bundle; --force replaces bundles only")
    parent = _standing(out)
    if not parent.is_dir():
        raise OutputError(f"{out} cannot be written: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out} cannot be written: {parent} is not writable")


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raises OutputError when `out` lies in a folder that is read from, or one that is read from lies in `out`."""
    place = Path(os.path.realpath(out))
    for path in filter(os.path.lexists, inputs):
        read = Path(os.path.realpath(path))
        if read.is_dir() and place.is_relative_to(read):
            raise OutputError(f"{out} cannot be written: it is inside {path}, which is read")
        if read.is_relative_to(place):
            raise OutputError(f"{out} cannot be replaced: {path}, which is read, is inside it")


def _standing(out: Path) -> Path:
    """The lowest folder above `out` that there is."""
    return next(parent for parent in out.parents if os.path.lexists(parent))


def check_space(folder: Path, needed: int) -> None:
    """Raises NoSpaceError when the disk of `folder`, which may not be there yet, has less than `needed` bytes free."""
    there = folder if folder.exists() else _standing(folder)
    free = shutil.disk_usage(there).free
    if free < needed:
        megabytes = f"{needed / 1e6:,.0f} MB and the disk of {there} has {free / 1e6:,.0f} MB free"
        raise NoSpaceError(f"the bundle needs {megabytes}")


@contextlib.contextmanager
def scratch(out: Path, needed: int = 0) -> Iterator[Path]:
    """Yield an empty directory beside `out`, which is removed when the block ends.

    Raises OutputError, NoSpaceError when the disk has less than `needed` bytes free.
    """
    with _failures(out), _beside(out, "unpacked") as folder:
        check_space(folder, needed)
        yield folder


@contextlib.contextmanager
def staged(out: Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `out`; it becomes `out` when the block ends well and is removed otherwise.

    With `force` a bundle that is already there is replaced in that last moment. Raises OutputError (NoSpaceError when
    the disk is full) for what goes wrong with the files. A whole bundle whose place was taken meanwhile stays beside
    it; the error says where.
    """
    check_output(out, force)
    with _failures(out), _beside(out, "partial") as partial:
        yield partial
        _sync_all(partial)
        replaced = out.with_name(f".{out.name}.{os.getpid()}.replaced")
        try:
            check_output(out, force)
            _put(partial, out, replaced)
        except (OutputError, OSError) as error:
            beside = (out.with_name(f"{out.name}.finished-{number}") for number in count(1))
            kept = next(path for path in beside if not os.path.lexists(path))
            partial.rename(kept)
            raise OutputError(f"{error}; the finished bundle is in {kept}") from error
        sync(out.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _put(partial: Path, out: Path, replaced: Path) -> None:
    """Rename to `out`, and what is there to `replaced`; or raise, with all of it as it was."""
    try:
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    except BaseException:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        raise


@contextlib.contextmanager
def _failures(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpaceError(f"no space left on the disk of {out}") from error
        raise OutputError(f"{out} cannot be written: {error}") from error


@contextlib.contextmanager
def _beside(out: Path, kind: str) -> Iterator[Path]:
    """Yield an empty directory `.NAME.PID.kind`, locked for as long as this process has it; then it is removed, and so
    are the folders that had to be made for it. What killed processes left of this `out` is swept first.
    """
    missing = [parent for parent in out.parents if not parent.exists()]
    folder = out.with_name(f".{out.name}.{os.getpid()}.{kind}")
    lock = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out)
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a disk that has no locks; then nothing is swept there
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        for parent in missing:  # only those still empty, so only when nothing was published
            with contextlib.suppress(OSError):
                parent.rmdir()


def sweep(out: Path) -> list[Path]:
    """Remove what exports to `out` left beside it when they were killed; a bundle that one was replacing comes back.

    Returns what there was.
    """
    ours = re.compile(rf"\.{re.escape(out.name)}\.(\d+)\.(partial|replaced|unpacked)")
    swept = []
    for path in sorted(out.parent.iterdir()) if out.parent.is_dir() else ():
        match = ours.fullmatch(path.name)
        if not match or path.is_symlink() or not path.is_dir() or _alive(path, int(match[1])):
            continue
        if match[2] == "replaced" and not out.exists() and (path / FILE_NAME).is_file():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)
        swept.append(path)
    return swept


def _alive(folder: Path, pid: int) -> bool:
    """Whether the process that made `folder` may still be at work.

    A lock tells, for a number may be another process's by now. A bundle that is being replaced has none.
    """
    if folder.name.endswith(".replaced"):
        return Path(f"/proc/{pid}").exists()
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or on a disk that has no locks
        return True
    finally:
        os.close(handle)
    return False


def _sync_all(folder: Path) -> None:
    """Have every file of `folder` on the disk before the rename makes it visible."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Have a file, or what was created, renamed or removed in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
