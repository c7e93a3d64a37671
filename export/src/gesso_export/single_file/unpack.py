"""One part of a single file, written as a component of a diffusers directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gesso_export.checkpoint.weights import FLOAT8
from gesso_export.errors import CheckpointError, first_line
from gesso_export.progress import quiet
from gesso_export.single_file.layout import Part, Shapes, Tensors


def write_part(part: Part, source: Any, folder: Path) -> None:
    """source: the open file. Raises CheckpointError when its tensors are not those of the part."""
    keys = [key for key in source.keys() if key.startswith(part.prefix)]  # noqa: SIM118 - not a mapping
    converted = _converted(part, keys, lambda key: _read(source, key))
    folder.mkdir(parents=True)
    tensors = {key: tensor.contiguous() for key, tensor in converted.items()}
    save_file(tensors, folder / f"{part.stem}.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", part.config)


def converted_shapes(part: Part, shapes: Shapes) -> Shapes:
    """Names and shapes as `write_part` would write them; raises as it does."""
    converted = _converted(part, shapes, lambda key: torch.empty(shapes[key], device="meta"))
    return {name: tuple(tensor.shape) for name, tensor in converted.items()}


def _converted(part: Part, keys: Iterable[str], read: Callable[[str], torch.Tensor]) -> Tensors:
    try:
        with quiet():
            converted = part.convert({key.removeprefix(part.prefix): read(key) for key in keys})
    except Exception as error:  # the conversions are diffusers', and fail in their own ways
        raise CheckpointError(f"{part.name} cannot be converted: {first_line(error)}") from error
    if missing := next((name for name, tensor in converted.items() if tensor is None), None):
        raise CheckpointError(f"{part.name}: the file has nothing to make {missing} of")
    return converted


def _read(source: Any, key: str) -> torch.Tensor:
    tensor: torch.Tensor = source.get_tensor(key)
    return tensor.bfloat16() if tensor.dtype in FLOAT8 else tensor


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
