"""The weights of a checkpoint's components: where they are, and what can be known of them before they are loaded.

Finding them reads safetensors headers only; pickles are refused before anything is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.header import Header, open_tensors, read_header
from gesso_export.checkpoint.strict import TABLE_BYTES, read_json
from gesso_export.errors import CheckpointError

# Names of one file, of the index of several, with a variant where either library or a person puts it, and of a shard.
_SUFFIX = ".safetensors"
_STEM = r"(?P<stem>diffusion_pytorch_model|model)"
_FILE = re.compile(rf"{_STEM}(\.(?P<variant>\w+))?\.safetensors")
_INDEX = re.compile(rf"{_STEM}(\.(?P<variant>\w+))?\.safetensors\.index(\.(?P<last>\w+))?\.json")
_SHARD = re.compile(rf"{_STEM}(\.(?P<variant>\w+))?-\d+-of-\d+(\.(?P<last>\w+))?\.safetensors")
_STEMS = ("diffusion_pytorch_model", "model")
_VARIANTS = ("", "fp32", "fp16", "bf16")  # best first; any other comes after them, and what was not averaged last
_WORST = "non_ema"
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
INTEGERS = {"I64", "I32"}  # position ids, which older checkpoints store


@dataclass(frozen=True)
class Weights:
    """The safetensors files of one component."""

    files: tuple[Path, ...]

    def headers(self) -> Iterator[Header]:
        for file in self.files:
            yield read_header(file)

    def parameters(self) -> int:
        """How many numbers there are, from the files' headers."""
        return sum(header.parameters for header in self.headers())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor. Raises CheckpointError for one that is in two files."""
        shapes: dict[str, tuple[int, ...]] = {}
        for file, header in zip(self.files, self.headers(), strict=True):
            if twice := next((name for name in header.shapes if name in shapes), None):
                raise CheckpointError(f"{file.parent.name}/{file.name}: the tensor {twice} is in another shard too")
            shapes.update(header.shapes)
        return shapes

    def dtypes(self) -> set[str]:
        """The precisions they are stored in, as safetensors names them."""
        return {dtype for header in self.headers() for dtype in header.dtypes.values()} - INTEGERS

    def dtype(self) -> torch.dtype:
        """The precision they are stored in; float32 for a mixture."""
        stored = self.dtypes()
        return _HALF_PRECISIONS.get(stored.pop(), torch.float32) if len(stored) == 1 else torch.float32

    def check_finite(self) -> None:
        """Read every tensor, one at a time.

        Raises CheckpointError naming one that holds NaN or infinity, or that belongs to quantised weights.
        """
        for file in self.files:
            with open_tensors(file) as tensors:
                check_not_quantised(tensors.keys())
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_tensor(name)
                    if tensor.dtype in FLOAT8:
                        tensor = tensor.bfloat16()  # torch looks for no NaN in float8
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise CheckpointError(f"{file.parent.name}/{file.name}: tensor {name} holds NaN or infinity")

    def link(self, folder: Path, stem: str) -> None:
        """Links to the files, by the names that libraries look for: `stem`, or shards of it with an index."""
        if len(self.files) == 1:
            (folder / f"{stem}{_SUFFIX}").symlink_to(self.files[0].resolve())
            return
        names = [f"{stem}-{i + 1:05}-of-{len(self.files):05}{_SUFFIX}" for i in range(len(self.files))]
        headers = dict(zip(names, self.headers(), strict=True))
        for name, file in zip(names, self.files, strict=True):
            (folder / name).symlink_to(file.resolve())
        index = {
            "metadata": {"total_size": sum(file.stat().st_size for file in self.files)},
            "weight_map": {tensor: name for name, header in headers.items() for tensor in header.shapes},
        }
        (folder / f"{stem}{_SUFFIX}.index.json").write_text(json.dumps(index), encoding="utf-8")


def find_weights(component: Component) -> Weights:
    """The safetensors files of a component. Raises CheckpointError when there are none, or only pickles."""
    folder = component.folder
    if not folder.is_dir():
        raise CheckpointError(f"{component.name}: there is no folder {folder.name}/")
    names = sorted(path.name for path in folder.iterdir())
    if chosen := best(names):
        files = shards(component, chosen) if chosen.endswith(".json") else (folder / chosen,)
        return Weights(files)
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise CheckpointError(
            f"{component.name}: the weights are a pickle ({pickles[0]}), which can run code when it is read; "
            "only safetensors are exported"
        )
    found = ", ".join(names[:8]) or "nothing"
    raise CheckpointError(f"{component.name}: there are no safetensors weights in {folder.name}/; there is {found}")


def best(names: Iterable[str]) -> str | None:
    """Of the names in a component's folder, its weights': one file or the index of several, of the best variant."""
    ranked = []
    for name in names:
        if match := _FILE.fullmatch(name) or _INDEX.fullmatch(name):
            variant = _variant(match)
            place = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS) + (variant == _WORST)
            ranked.append((place, _STEMS.index(match["stem"]), name.endswith(".json"), name))
    return min(ranked)[-1] if ranked else None


def belongs(name: str, index: str) -> bool:
    """Whether the file `name` is one of the shards of the index of that name, by its name."""
    shard, of = _SHARD.fullmatch(name), _INDEX.fullmatch(index)
    return bool(shard and of and (shard["stem"], _variant(shard)) == (of["stem"], _variant(of)))


def shards(component: Component, index: str) -> tuple[Path, ...]:
    """The files that an index names. Raises CheckpointError for one that is missing, or is not of this folder."""
    weight_map = read_json(component.folder, index, TABLE_BYTES).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise CheckpointError(f"{component.name}: {index} does not name files of its folder")
    files = tuple(component.folder / name for name in sorted(set(names)))
    if missing := [file.name for file in files if not file.exists()]:
        raise CheckpointError(f"{component.name}: weights are missing: {missing[0]}, which {index} names")
    return files


def _variant(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return groups.get("variant") or groups.get("last") or ""


def check_not_quantised(names: Iterable[str]) -> None:
    """Raises CheckpointError when tensors of these names are of weights that mean nothing without their scales.

    Plain float8 is no such thing: its numbers are the weights.
    """
    for name in names:
        for ending, kind in _QUANTISED.items():
            if name.endswith(ending):
                raise CheckpointError(f"the weights are quantised: {kind} ({name}), which is not supported")
