"""Writing a directory that is either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gesso_export.bundle.manifest import FILE_NAME
from gesso_export.errors import NoSpaceError, OutputError


def check_output(out: Path, force: bool) -> None:
    """Raises OutputError when `out` may not be written: it exists, and is no bundle or `force` is not given."""
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise OutputError(f"{out} exists; --force replaces it")
    if out.is_symlink() or not (out / FILE_NAME).is_file():
        raise OutputError(f"{out} is not a bundle; --force replaces bundles only")


def check_space(folder: Path, needed: int) -> None:
    """Raises NoSpaceError when the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        megabytes = f"{needed / 1e6:,.0f} MB and the disk of {folder.parent} has {free / 1e6:,.0f} MB free"
        raise NoSpaceError(f"the bundle needs {megabytes}")


@contextlib.contextmanager
def staged(out: Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside `out`; it becomes `out` when the block ends well and is removed otherwise.

    With `force` a bundle that is already there is replaced in that last moment. Raises OutputError (NoSpaceError when
    the disk is full) for what goes wrong with the files.
    """
    check_output(out, force)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    replaced = out.with_name(f".{out.name}.{os.getpid()}.replaced")
    missing = [parent for parent in out.parents if not parent.exists()]
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
            yield partial
            _sync_all(partial)
            check_output(out, force)
            try:
                if out.exists():
                    out.rename(replaced)
                partial.rename(out)
            except BaseException:
                if replaced.exists() and not out.exists():
                    replaced.rename(out)
                raise
            sync(out.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
            for parent in missing:  # only those still empty, so only when nothing was published
                with contextlib.suppress(OSError):
                    parent.rmdir()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpaceError(f"no space left on the disk of {out}") from error
        raise OutputError(f"{out} cannot be written: {error}") from error


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
