"""The header of a single file: names and shapes of its tensors."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from gesso_export.checkpoint.weights import PICKLES
from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Shapes

_GGUF = ".gguf"
SUFFIXES = (".safetensors", _GGUF, *PICKLES)
_PRECISIONS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # others are of packed weights
_INTEGERS = {"I64", "I32"}  # position ids


def read_shapes(file: Path) -> Shapes:
    """Names and shapes of the tensors, from the header.

    Raises CheckpointError for what is no safetensors file, and for one of packed weights.
    """
    if file.suffix in PICKLES:
        raise CheckpointError(f"{file.name} is a pickle, which can run code when it is read; only safetensors are read")
    if file.suffix == _GGUF:
        raise CheckpointError(f"{file.name} is a GGUF file, whose weights are quantised; only safetensors are read")
    shapes = {}
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_slice(name)
                shapes[name] = tuple(tensor.get_shape())
                dtype = tensor.get_dtype()
                if dtype not in _PRECISIONS | _INTEGERS and len(shapes[name]) > 1:
                    raise CheckpointError(f"{file.name}: {name} is of {dtype}, quantised, which is not supported")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from error
    return shapes
