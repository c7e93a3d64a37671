"""A single file, written as a diffusers directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gesso_export.checkpoint.checkpoint import Component, open_checkpoint
from gesso_export.checkpoint.clip_vocabulary import write_tokenizer
from gesso_export.checkpoint.weights import FLOAT8
from gesso_export.errors import CheckpointError, first_line
from gesso_export.progress import quiet
from gesso_export.single_file.detect import detect
from gesso_export.single_file.header import read_shapes
from gesso_export.single_file.layout import Layout, Part


def convert(
    file: Path, folder: Path, prediction_type: str | None = None, *, turbo: bool = False, base: Path | None = None
) -> None:
    """Write the checkpoint in `file` to the empty directory `folder`, in the diffusers layout and its own precision.

    float8 becomes bfloat16, which has all its values. base: a diffusers directory for the components that the file
    does not hold; they become links. prediction_type, turbo: see `detect`.
    """
    layout = detect(read_shapes(file), prediction_type, turbo=turbo)
    borrowed = _borrowed(layout, base)
    with safe_open(file, framework="pt") as source:
        for part in layout.parts:
            # One network at a time: a checkpoint is larger than what any machine should need to read it.
            _write_part(part, source, folder / part.name)
    for name, component in borrowed.items():
        (folder / name).symlink_to(component.folder.resolve(), target_is_directory=True)
    for name, pad_token in layout.tokenizers.items():
        write_tokenizer(folder / name, pad_token)
    _write_json(folder / "scheduler" / "scheduler_config.json", layout.scheduler)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": layout.pipeline,
            **layout.options,
            **{part.name: [part.library, part.class_name] for part in layout.parts},
            **{name: [component.library, component.class_name] for name, component in borrowed.items()},
            **{name: ["transformers", "CLIPTokenizer"] for name in layout.tokenizers},
            "scheduler": ["diffusers", layout.scheduler["_class_name"]],
        },
    )


def _borrowed(layout: Layout, base: Path | None) -> dict[str, Component]:
    """The components that the file does not hold, from a diffusers directory. Raises CheckpointError."""
    if not layout.missing:
        if base is not None:
            raise CheckpointError(f"--base is for FLUX.1 files; this file is {layout.what}")
        return {}
    if base is None:
        raise CheckpointError(
            f"this file is {layout.what} without {', '.join(layout.missing)}; give --base DIR, a diffusers directory "
            "of any FLUX.1 model, to take them from (T5's tokenizer, tokenizer_2, is in no single file)"
        )
    checkpoint = open_checkpoint(base, base.name)
    if checkpoint.pipeline not in layout.bases:
        raise CheckpointError(f"--base {base} is a {checkpoint.pipeline}, not FLUX.1")
    for name in layout.missing:
        if name not in checkpoint.components or not checkpoint.components[name].folder.is_dir():
            raise CheckpointError(f"--base {base} has no {name}, and neither has the file")
    return {name: checkpoint.components[name] for name in layout.missing}


def _write_part(part: Part, source: Any, folder: Path) -> None:
    keys = [key for key in source.keys() if key.startswith(part.prefix)]  # noqa: SIM118 - not a mapping
    try:
        with quiet():
            converted = part.convert({key.removeprefix(part.prefix): _read(source, key) for key in keys})
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{part.name} cannot be converted: {first_line(error)}") from error
    folder.mkdir(parents=True)
    tensors = {key: tensor.contiguous() for key, tensor in converted.items()}
    save_file(tensors, folder / f"{part.stem}.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", part.config)


def _read(source: Any, key: str) -> torch.Tensor:
    tensor: torch.Tensor = source.get_tensor(key)
    return tensor.bfloat16() if tensor.dtype in FLOAT8 else tensor


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
