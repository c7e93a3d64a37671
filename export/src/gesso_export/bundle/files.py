"""The files of a bundle: described by hash and size, and held against that."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gesso_export.bundle.manifest import FileSpec
from gesso_export.errors import VerificationError


def describe(folder: Path) -> dict[str, FileSpec]:
    """Every file under `folder`, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): describe_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def describe_file(path: Path) -> FileSpec:
    """Hash and size of a file."""
    with path.open("rb") as file:
        return FileSpec(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def check_file(folder: Path, name: str, expected: FileSpec) -> None:
    """Raises VerificationError when the file is missing or is not the one the manifest describes."""
    path = folder / name
    if not path.is_file():
        raise VerificationError(f"{name} is missing")
    if path.stat().st_size != expected.bytes:
        raise VerificationError(f"{name} has {path.stat().st_size} bytes, the manifest says {expected.bytes}")
    if describe_file(path).sha256 != expected.sha256:
        raise VerificationError(f"{name} is damaged: its sha256 is not the manifest's")
