"""The weights of a checkpoint's components: where they are, and what can be known of them before they are loaded.

Finding them reads safetensors headers only; pickles are refused before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gesso_export.checkpoint.checkpoint import Component, read_json
from gesso_export.errors import CheckpointError

# Where a component's weights may be, best first, and the variant diffusers calls that.
WEIGHT_NAMES = (
    ("diffusion_pytorch_model.safetensors", None),
    ("model.safetensors", None),
    ("diffusion_pytorch_model.fp16.safetensors", "fp16"),
    ("model.fp16.safetensors", "fp16"),
)
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# How the names of tensors end that go with packed or scaled weights, and what kind of file they are of.
_QUANTISED = {
    "scaled_fp8": "scaled float8",
    ".scale_weight": "scaled float8",
    ".weight_scale": "scaled float8",
    ".comfy_quant": "scaled float8",
    ".absmax": "nf4 or fp4 (bitsandbytes)",
    ".quant_map": "nf4 or fp4 (bitsandbytes)",
    ".SCB": "int8 (bitsandbytes)",
    ".qweight": "GPTQ, AWQ or SVDQuant",
}
_HALF_PRECISIONS = {"F16": torch.float16, "BF16": torch.bfloat16}
_INTEGERS = {"I64", "I32"}  # position ids, which older checkpoints store


@dataclass(frozen=True)
class Weights:
    """The safetensors files of one component."""

    files: tuple[Path, ...]
    variant: str | None  # what from_pretrained calls this set of files

    def parameters(self) -> int:
        """How many numbers there are, from the files' headers."""
        return sum(math.prod(tensor.get_shape()) for tensor in self._headers())

    def dtype(self) -> torch.dtype:
        """The precision they are stored in; float32 for a mixture."""
        stored = {tensor.get_dtype() for tensor in self._headers()} - _INTEGERS
        return _HALF_PRECISIONS.get(stored.pop(), torch.float32) if len(stored) == 1 else torch.float32

    def check_finite(self) -> None:
        """Read every tensor, one at a time.

        Raises CheckpointError naming one that holds NaN or infinity, or that belongs to quantised weights.
        """
        for file in self.files:
            with _open(file) as tensors:
                check_not_quantised(tensors.keys())
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_tensor(name)
                    if tensor.dtype in FLOAT8:
                        tensor = tensor.bfloat16()  # torch looks for no NaN in float8
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise CheckpointError(f"{file.parent.name}/{file.name}: tensor {name} holds NaN or infinity")

    def _headers(self) -> Iterator[Any]:
        for file in self.files:
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    yield tensors.get_slice(name)


def find_weights(component: Component) -> Weights:
    """The safetensors files of a component. Raises CheckpointError when there are none, or only pickles."""
    folder = component.folder
    for name, variant in WEIGHT_NAMES:
        if (folder / name).is_file():
            return Weights((folder / name,), variant)
        shards = folder / f"{name}.index.json"
        if variant is None and shards.is_file():
            names = sorted(set(read_json(folder, shards.name).get("weight_map", {}).values()))
            if missing := [shard for shard in names if not (folder / shard).is_file()]:
                raise CheckpointError(f"{component.name}: weights are missing: {missing[0]}")
            return Weights(tuple(folder / shard for shard in names), variant)
    pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
    if pickles:
        raise CheckpointError(
            f"{component.name}: the weights are a pickle ({pickles[0]}), which can run code when it is read; "
            "only safetensors are exported"
        )
    raise CheckpointError(f"{component.name}: there are no safetensors weights in {folder.name}/")


def check_not_quantised(names: Iterable[str]) -> None:
    """Raises CheckpointError when tensors of these names are of weights that mean nothing without their scales.

    Plain float8 is no such thing: its numbers are the weights.
    """
    for name in names:
        for ending, kind in _QUANTISED.items():
            if name.endswith(ending):
                raise CheckpointError(f"the weights are quantised: {kind} ({name}), which is not supported")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file.parent.name}/{file.name} cannot be read: {error}") from error
