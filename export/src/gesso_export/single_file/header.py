"""The header of a single file, and what is refused by it."""

from __future__ import annotations

from pathlib import Path

from gesso_export.checkpoint.header import Header, read_header
from gesso_export.checkpoint.weights import INTEGERS, PICKLES
from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Shapes

_GGUF = ".gguf"
SUFFIXES = (".safetensors", _GGUF, *PICKLES)
_PRECISIONS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # others are of packed weights


def read(file: Path) -> Header:
    """Raises CheckpointError for what is no safetensors file, and for one of packed weights."""
    if file.suffix in PICKLES:
        raise CheckpointError(f"{file.name} is a pickle, which can run code when it is read; only safetensors are read")
    if file.suffix == _GGUF:
        raise CheckpointError(f"{file.name} is a GGUF file, whose weights are quantised; only safetensors are read")
    header = read_header(file)
    for name, dtype in header.dtypes.items():
        if dtype not in _PRECISIONS | INTEGERS and len(header.shapes[name]) > 1:
            raise CheckpointError(f"{file.name}: {name} is of {dtype}, quantised, which is not supported")
    return header


def read_shapes(file: Path) -> Shapes:
    """Names and shapes of the tensors. Raises CheckpointError as `read`."""
    return read(file).shapes
