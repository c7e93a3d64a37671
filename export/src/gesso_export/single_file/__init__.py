"""Checkpoints as one .safetensors file in the original layout of their makers, as on model-sharing sites.

What a file is shows in its header alone: the names and shapes of its tensors. `convert` writes what is in it as a
diffusers directory; no network is asked, for the configs are the published ones with the sizes of this file, and CLIP's
tokenizer, which no such file has, is OpenAI's. There is a module for each family, and one for each kind of network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gesso_export.checkpoint import FLOAT8, PICKLES, Component, check_not_quantised, open_checkpoint
from gesso_export.clip_vocabulary import write_tokenizer
from gesso_export.errors import CheckpointError, first_line
from gesso_export.progress import quiet
from gesso_export.single_file import flux, sdxl, stable_diffusion
from gesso_export.single_file.layout import Layout, Part, Shapes
from gesso_export.single_file.stable_diffusion import CLIP, OPENCLIP, SCHEDULER_CLASS, SCHEDULER_CONFIG
from gesso_export.single_file.unet import FIRST, UNET
from gesso_export.single_file.vae import VAE

__all__ = ["CLIP", "OPENCLIP", "SCHEDULER_CLASS", "SCHEDULER_CONFIG", "SUFFIXES", "UNET", "VAE", "Layout", "Shapes",
           "convert", "detect", "read_shapes"]  # fmt: skip

_GGUF = ".gguf"
SUFFIXES = (".safetensors", _GGUF, *PICKLES)
_PRECISIONS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # others are of packed weights
_INTEGERS = {"I64", "I32"}  # position ids
_REFINER_CHANNELS = 384

# What is told from the first of these tensors that a file has, when it is of no family that is served.
_OTHERS = {
    "conditioner.embedders.0.model.ln_final.weight": "the Stable Diffusion XL refiner",
    "edm_mean": "Playground 2.5",
    "edm_vpred.sigma_max": "an SDXL model of the EDM kind (CosXL)",
    "distilled_guidance_layer.in_proj.bias": "Chroma",
    "single_stream_modulation.lin.weight": "FLUX.2",
    "joint_blocks.0.context_block.attn.qkv.weight": "Stable Diffusion 3",
    "control_model.time_embed.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "emb_params": "a textual inversion (see --embedding)",
    "clip_g": "a textual inversion (see --embedding)",
    "down_blocks.0.resnets.0.conv1.weight": "a UNet in the diffusers layout, without the rest of its directory",
    "transformer_blocks.0.attn.to_q.weight": "a transformer in the diffusers layout, without the rest of its directory",
}


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


def detect(shapes: Shapes, prediction_type: str | None = None, *, turbo: bool = False) -> Layout:
    """What checkpoint has tensors of these names and shapes.

    prediction_type: where the header does not say it. turbo: whether it is SDXL-Turbo, which no header says. Raises
    CheckpointError naming what the file is, as far as it is known, when it is not served.
    """
    check_not_quantised(shapes)
    for key, what in _OTHERS.items():
        if key in shapes or UNET + key in shapes:
            raise CheckpointError(f"this file is {what}, which is not supported")
    if any("lora" in key for key in shapes):
        raise CheckpointError("this file is a LoRA, not a whole model")
    try:
        layout = _detect(shapes, prediction_type, turbo)
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise CheckpointError(f"this file lacks a tensor that its kind of model has: {error}") from error
    if turbo and sdxl.KEY not in shapes:
        raise CheckpointError(f"--turbo is for SDXL files; this file is {layout.what}")
    return layout


def _detect(shapes: Shapes, prediction_type: str | None, turbo: bool) -> Layout:
    if flux.prefix(shapes) is not None:
        if prediction_type is not None:
            raise CheckpointError("--prediction-type is not for FLUX.1, which predicts a velocity")
        return flux.detect(shapes)
    if UNET + FIRST not in shapes:
        raise CheckpointError("this file has no Stable Diffusion UNet (model.diffusion_model.input_blocks...)")
    if shapes[UNET + FIRST][0] == _REFINER_CHANNELS:
        raise CheckpointError("this file is the Stable Diffusion XL refiner, which is not supported")
    if sdxl.KEY in shapes:
        return sdxl.detect(shapes, prediction_type, turbo)
    return stable_diffusion.detect(shapes, prediction_type)


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
