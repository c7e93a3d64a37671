"""The one way in which a checkpoint's files are read: regular files of bounded size, and JSON without surprises."""

from __future__ import annotations

import codecs
import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gesso_export.errors import CheckpointError

CONFIG_BYTES = 2**20
TABLE_BYTES = 2**25  # vocabularies, and what lists the tensors of shards
_DEPTH = 32
_LFS = b"version https://git-lfs"
_LFS_BYTES = 1024  # a pointer is of about 130
_LARGEST = 2**63
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# What may be infinite, and any large number, in files that libraries write.
_INFINITE = ("lambda_min_clipped",)
_UNBOUNDED = ("model_max_length",)


def check_regular(path: Path) -> int:
    """The size of a file, in bytes.

    Raises FileNotFoundError, or CheckpointError for what is no regular file (a pipe may never end) and for what git-lfs
    leaves in place of one.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        if found.st_size <= _LFS_BYTES and path.read_bytes().startswith(_LFS):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` there")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return found.st_size


def read_text(path: Path, largest: int = CONFIG_BYTES) -> str:
    """A text in UTF-8, or in what its byte-order mark says, without that mark; largest: its size, in bytes.

    Raises FileNotFoundError, CheckpointError.
    """
    if (size := check_regular(path)) > largest:
        raise CheckpointError(f"{path} has {size} bytes; the most that is read is {largest}")
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
        return content.decode(encoding)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def read_json(folder: Path, name: str, largest: int = CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object: of bounded depth, no key twice, numbers that are finite. Raises CheckpointError."""
    path = folder / name
    try:
        text = read_text(path, largest)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {name}: a component is missing or this is no checkpoint") from None
    return parse_object(text, str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The same of a text; where: what an error calls it."""
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    for key, number in _numbers(content, where, 0, ""):
        infinite = key in _INFINITE and isinstance(number, float) and not math.isnan(number)
        if not infinite and not math.isfinite(number if isinstance(number, float) else 0):
            raise CheckpointError(f"{where}: {key} is {number}, which is not finite")
        if abs(number) > _LARGEST and not infinite and key not in _UNBOUNDED:
            raise CheckpointError(f"{where}: {key} is beyond any bound")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} comes twice")
    return content


def _numbers(value: Any, where: str, depth: int, key: str) -> Iterator[tuple[str, int | float]]:
    if depth > _DEPTH:
        raise CheckpointError(f"{where} is nested deeper than {_DEPTH} levels")
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, where, depth + 1, name)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, where, depth + 1, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
