"""Checkpoints as one .safetensors file in the original (CompVis, Stability) layout, as on model-sharing sites.

What a file is shows in its header alone: the names and shapes of its tensors. `convert` writes what is in it as a
diffusers directory, with diffusers' own key conversion; no network is asked, for the configs are the published ones
with the sizes of this file, and the tokenizer, which no such file has, is OpenAI's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gesso_export.clip_vocabulary import EOS, write_tokenizer
from gesso_export.errors import CheckpointError
from gesso_export.progress import quiet

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *_PICKLES)
_HEAD = 64  # channels of one attention head in OpenCLIP's models, and in CLIP's text encoder
_CLIP_HEADS = 8  # attention heads of the first UNets, whatever the width

# What is told from the first of these tensors that a file has, when it is no Stable Diffusion 1.x or 2.x.
_OTHERS = {
    "conditioner.embedders.1.model.ln_final.weight": "Stable Diffusion XL",
    "conditioner.embedders.0.model.ln_final.weight": "the Stable Diffusion XL refiner",
    "double_blocks.0.img_attn.norm.key_norm.scale": "FLUX",
    "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": "FLUX",
    "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": "Stable Diffusion 3",
    "control_model.time_embed.0.weight": "a ControlNet",
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "a LoRA",
    "emb_params": "a textual inversion (see --embedding)",
}
# scheduler_config.json as the published checkpoints ship it (Stable Diffusion 1.5), without its class.
SCHEDULER_CLASS = "PNDMScheduler"
SCHEDULER_CONFIG: Mapping[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


@dataclass(frozen=True)
class Layout:
    """What a header says, as the configs of a diffusers directory."""

    openclip: bool  # Stable Diffusion 2.x
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    prediction_type: str

    @property
    def pipeline(self) -> str:
        return "StableDiffusionInpaintPipeline" if self.unet["in_channels"] == 9 else "StableDiffusionPipeline"


def read_shapes(file: Path) -> Shapes:
    """Names and shapes of the tensors, from the header. Raises CheckpointError for what is no safetensors file."""
    if file.suffix in _PICKLES:
        raise CheckpointError(f"{file.name} is a pickle, which can run code when it is read; only safetensors are read")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from error


def detect(shapes: Shapes, prediction_type: str | None = None) -> Layout:
    """What checkpoint has tensors of these names and shapes.

    prediction_type: of a Stable Diffusion 2.x file, whose header does not say it. Raises CheckpointError naming what
    the file is, as far as it is known, when it is not served.
    """
    for key, what in _OTHERS.items():
        if key in shapes:
            raise CheckpointError(f"this file is {what}, which is not supported yet")
    if any("lora" in key for key in shapes):
        raise CheckpointError("this file is a LoRA, not a whole model")
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise CheckpointError("this file has no Stable Diffusion UNet (model.diffusion_model.input_blocks...)")
    for prefix, part in ((VAE, "VAE"), ("cond_stage_model.", "text encoder")):
        if not any(key.startswith(prefix) for key in shapes):
            raise CheckpointError(f"this file has no {part}; a whole checkpoint is needed")
    openclip = any(key.startswith(OPENCLIP) for key in shapes)
    if openclip and prediction_type is None:
        raise CheckpointError(
            "Stable Diffusion 2.x files do not say what their UNet predicts; give --prediction-type: v_prediction for "
            "those of 768 pixels, epsilon for the others"
        )
    prediction = prediction_type or "epsilon"
    try:
        size = 96 if openclip and prediction == "v_prediction" else 64
        unet = _unet({key.removeprefix(UNET): shape for key, shape in shapes.items() if key.startswith(UNET)}, size)
        vae = _vae({key.removeprefix(VAE): shape for key, shape in shapes.items() if key.startswith(VAE)})
        text = _openclip(shapes) if openclip else _clip(shapes)
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise CheckpointError(f"this file lacks a tensor that Stable Diffusion has: {error}") from error
    return Layout(openclip, unet, vae, text, prediction)


def convert(file: Path, folder: Path, prediction_type: str | None = None) -> None:
    """Write the checkpoint in `file` to the empty directory `folder`, in the diffusers layout and its own precision."""
    layout = detect(read_shapes(file), prediction_type)
    from diffusers.loaders import single_file_utils as theirs

    with safe_open(file, framework="pt") as source:
        parts: dict[str, tuple[Mapping[str, Any], str, tuple[str, ...], Callable[[Tensors], Tensors]]] = {
            "unet": (layout.unet, "diffusion_pytorch_model", (UNET,),
                     lambda tensors: theirs.convert_ldm_unet_checkpoint(tensors, dict(layout.unet))),
            "vae": (layout.vae, "diffusion_pytorch_model", (VAE,),
                    lambda tensors: theirs.convert_ldm_vae_checkpoint(tensors, dict(layout.vae))),
            "text_encoder": (layout.text_encoder, "model", (CLIP, OPENCLIP),
                             lambda tensors: _text_tensors(tensors, layout)),
        }  # fmt: skip
        for name, (config, stem, prefixes, keys_converted) in parts.items():
            # One network at a time: a checkpoint is larger than what any machine should need to read it.
            tensors = {key: source.get_tensor(key) for key in source.keys() if key.startswith(prefixes)}  # noqa: SIM118
            with quiet():
                converted = {key: tensor.contiguous() for key, tensor in keys_converted(tensors).items()}
            (folder / name).mkdir(parents=True)
            save_file(converted, folder / name / f"{stem}.safetensors", metadata={"format": "pt"})
            _write_json(folder / name / "config.json", config)
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {"_class_name": SCHEDULER_CLASS, **SCHEDULER_CONFIG, "prediction_type": layout.prediction_type},
    )
    write_tokenizer(folder / "tokenizer", "!" if layout.openclip else EOS)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": layout.pipeline,
            "scheduler": ["diffusers", SCHEDULER_CLASS],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _unet(shapes: Shapes, sample_size: int) -> dict[str, Any]:
    """A UNet2DConditionModel's config. Levels end where a block only downsamples."""
    in_channels = shapes["input_blocks.0.0.weight"][1]
    if in_channels not in (4, 9):
        raise CheckpointError(f"the UNet takes {in_channels} channels; supported are 4 and 9 (inpainting)")
    channels: list[int] = []
    attends: list[bool] = []
    layers = 0
    level = 0
    for block in range(1, 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("input_blocks."))):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            level += 1
            continue
        if level == len(channels):
            channels.append(shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0])
            attends.append(f"input_blocks.{block}.1.proj_in.weight" in shapes)
        layers += level == 0
    attended = next(key for key in shapes if key.endswith("transformer_blocks.0.attn2.to_k.weight"))
    linear = len(shapes[attended.replace("transformer_blocks.0.attn2.to_k.weight", "proj_in.weight")]) == 2
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": shapes["out.2.weight"][0],
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "cross_attention_dim": shapes[attended][1],
        # What diffusers calls so is the number of heads.
        "attention_head_dim": [width // _HEAD for width in channels] if linear else _CLIP_HEADS,
        "use_linear_projection": linear,
    }


def _vae(shapes: Shapes) -> dict[str, Any]:
    levels = 1 + max(int(key.split(".")[2]) for key in shapes if key.startswith("encoder.down."))
    layers = 1 + max(int(key.split(".")[4]) for key in shapes if key.startswith("encoder.down.0.block."))
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": layers,
        "latent_channels": shapes["post_quant_conv.weight"][1],
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    prefix = f"{CLIP}text_model."
    vocabulary, hidden = shapes[f"{prefix}embeddings.token_embedding.weight"]
    layers = {key.split(".")[5] for key in shapes if key.startswith(f"{prefix}encoder.layers.")}
    return _text_config(
        hidden,
        len(layers),
        vocabulary,
        positions=shapes[f"{prefix}embeddings.position_embedding.weight"][0],
        intermediate=shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
        act="quick_gelu",
    )


def _openclip(shapes: Shapes) -> dict[str, Any]:
    """All layers but the last: Stable Diffusion 2 was trained on what the last but one says."""
    vocabulary, hidden = shapes[f"{OPENCLIP}token_embedding.weight"]
    layers = {key.split(".")[4] for key in shapes if key.startswith(f"{OPENCLIP}transformer.resblocks.")}
    return _text_config(
        hidden,
        len(layers) - 1,
        vocabulary,
        positions=shapes[f"{OPENCLIP}positional_embedding"][0],
        intermediate=shapes[f"{OPENCLIP}transformer.resblocks.0.mlp.c_fc.weight"][0],
        act="gelu",
    )


def _text_config(
    hidden: int, layers: int, vocabulary: int, positions: int, intermediate: int, act: str
) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // _HEAD),
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "hidden_act": act,
        "projection_dim": hidden,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _text_tensors(tensors: Tensors, layout: Layout) -> Tensors:
    """A CLIPTextModel's tensors, named as transformers saves them."""
    from diffusers.loaders import single_file_utils as theirs
    from transformers import CLIPTextConfig

    if not layout.openclip:
        converted = theirs.convert_ldm_clip_checkpoint(tensors)
        return {key: value for key, value in converted.items() if not key.endswith("position_ids")}

    class Sized:  # all that the conversion reads of a model
        config = CLIPTextConfig.from_dict(dict(layout.text_encoder))

    layers = int(layout.text_encoder["num_hidden_layers"])
    own = {key: value for key, value in tensors.items() if key != f"{OPENCLIP}text_projection"}
    converted = theirs.convert_open_clip_checkpoint(Sized, own)
    left_out = (f"text_model.encoder.layers.{layers}.", "text_projection")
    return {key: value for key, value in converted.items() if not key.startswith(left_out)}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
