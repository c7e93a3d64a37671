"""The configs that diffusers would fetch from the hub to read a single file by: those of the published models.

Which model it is, is diffusers' own judgement; what the file itself says of its training is read from its header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gesso_export.checkpoint.checkpoint import INDEX, SingleFile
from gesso_export.checkpoint.claims import of_file
from gesso_export.checkpoint.clip_vocabulary import EOS, write_tokenizer
from gesso_export.checkpoint.header import read_header
from gesso_export.proof.opening import CannotOpen
from gesso_export.published.models import MODELS
from gesso_export.single_file.flux import CLIP, T5, VAE
from gesso_export.single_file.unet import UNET

# What diffusers calls the kinds of files, and the published model of each.
_MODELS = {
    "v1": "sd15",
    "inpainting": "sd15-inpaint",
    "v2": "sd21",
    "inpainting_v2": "sd2-inpaint",
    "xl_base": "sdxl",
    "xl_inpaint": "sdxl-inpaint",
    "flux-dev": "flux-dev",
    "flux-fill": "flux-fill",
    "flux-schnell": "flux-schnell",
}


def write(file: SingleFile, folder: Path) -> None:
    """Write the configs and tokenizers of a diffusers directory. Raises CannotOpen for a file of no such model."""
    if file.path.suffix != ".safetensors":
        raise CannotOpen(f"it takes {file.path.name} for a pickle, by its name")
    shapes = {name: SimpleNamespace(shape=shape) for name, shape in read_header(file.path).shapes.items()}
    name = published(shapes, turbo=file.turbo)
    checkpoint = MODELS[name].checkpoint
    index: dict[str, Any] = {"_class_name": checkpoint.pipeline, **checkpoint.index}
    for component in checkpoint.components.values():
        config = component.config()
        if component.name == "scheduler":
            config |= trained(file)
            _write_json(folder / "scheduler" / "scheduler_config.json", config)
        elif component.library != "stable_diffusion" and not component.name.startswith(("tokenizer", "feature")):
            _write_json(folder / component.name / "config.json", config)
        index[component.name] = [component.library, component.class_name]
    for tokenizer, padding in _paddings(name).items():
        write_tokenizer(folder / tokenizer, padding)
    _write_json(folder / INDEX, index)


def published(shapes: Mapping[str, Any], *, turbo: bool = False) -> str:
    """The model whose configs fit tensors of these shapes: a name in MODELS. Raises CannotOpen when none does."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    kind = infer_diffusers_model_type(shapes)
    if kind not in _MODELS:
        raise CannotOpen(f"its single-file loader takes it for {kind}, whose configs are not among ours")
    name = "sdxl-turbo" if turbo and kind == "xl_base" else _MODELS[kind]
    prefix = UNET if any(key.startswith(UNET) for key in shapes) else ""
    others = () if prefix else (VAE, CLIP, T5)
    denoiser = [shapes[key].shape for key in shapes if key.startswith(prefix) and not key.startswith(others)]
    found, count = sum(map(math.prod, denoiser)), MODELS[name].counts
    expected = count["unet" if "unet" in count else "transformer"].parameters
    if found != expected:  # diffusers would make up what is missing
        raise CannotOpen(f"its denoiser has {found:,} parameters, that of {name}, whose configs it needs, {expected:,}")
    return name


def _paddings(name: str) -> dict[str, str]:
    """By tokenizer, of those that are CLIP's; T5's is in no single file."""
    if name.startswith("sdxl"):
        return {"tokenizer": EOS, "tokenizer_2": "!"}
    return {"tokenizer": "!" if name.startswith("sd2") else EOS}


def trained(file: SingleFile) -> dict[str, Any]:
    """Of the scheduler's config, what the person says of its training, or else what the file says."""
    header = read_header(file.path)
    claims = of_file(header.shapes, header.metadata, file.path)
    prediction = claims.predicts(file.prediction_type, None)
    return {
        **({"prediction_type": prediction} if prediction else {}),
        **({"rescale_betas_zero_snr": True} if claims.has_zero_snr() else {}),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
