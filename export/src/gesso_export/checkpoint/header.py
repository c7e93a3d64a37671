"""The header of a safetensors file: names, shapes and precisions of its tensors, and what its maker says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gesso_export.checkpoint.bounds import short
from gesso_export.checkpoint.strict import TABLE_BYTES, check_regular, parse_object
from gesso_export.errors import CheckpointError, first_line

_LENGTH_BYTES = 8  # before the header: its length, a little-endian whole number
_METADATA = "__metadata__"
_TENSORS = 20_000  # the largest models have some 3,000


@dataclass(frozen=True)
class Header:
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]  # as safetensors names them
    metadata: Mapping[str, str]

    @property
    def parameters(self) -> int:
        """How many numbers the file holds."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_header(file: Path) -> Header:
    """Raises CheckpointError for what is no whole safetensors file."""
    content = _parsed(file)
    metadata = content.pop(_METADATA, None) or {}
    if len(content) > _TENSORS:
        raise CheckpointError(f"{file} has {len(content)} tensors; the most that is read is {_TENSORS}")
    open_tensors(file)  # safetensors holds shapes and offsets against the file's size
    for name, entry in content.items():
        if 0 in entry["shape"] and len(entry["shape"]) > 1:  # a mark is [0]; the file's size bounds no other sizes
            raise CheckpointError(f"{file}: the tensor {name} is empty: {short(entry['shape'])}")
    return Header(
        {name: tuple(entry["shape"]) for name, entry in content.items()},
        {name: entry["dtype"] for name, entry in content.items()},
        {key: value for key, value in metadata.items() if isinstance(value, str)},
    )


def open_tensors(file: Path) -> Any:
    """The file, with its tensors mapped. Raises CheckpointError."""
    try:
        check_regular(file)
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {first_line(error)}") from error


def _parsed(file: Path) -> dict[str, Any]:
    try:
        size = check_regular(file)
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(TABLE_BYTES, size - _LENGTH_BYTES):
                raise CheckpointError(f"{file} cannot be read as safetensors: a header of {length} bytes")
            text = stream.read(length).decode("utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from error
    return parse_object(text, f"{file}: the header")
