"""Write an SDXL checkpoint with random weights, in the diffusers format: see random_checkpoint.py, which runs this.

The full-size networks without their weights, for tools that only count:

    with torch.device("meta"):
        unet = networks("sdxl", in_channels=4)["unet"].build()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from gesso_export.checkpoint.clip_vocabulary import EOS, write_tokenizer
from gesso_export.single_file.sdxl import SCHEDULER_CLASS, SCHEDULER_CONFIG, TURBO_SCHEDULER_CLASS
from random_networks import (
    Network,
    calibrate_unet,
    calibrate_vae,
    clip_config,
    vae_config,
    write_index,
    write_networks,
    write_scheduler,
)

SCALING_FACTOR = 0.13025
TIME_IDS = 6  # original size, crop, target size: two numbers each


@dataclass(frozen=True)
class Architecture:
    """Sizes of the four networks; a preset names one, and every field can be replaced."""

    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_heads: tuple[int, ...]
    unet_depths: tuple[int, ...]  # transformer layers in a block of each level; the first level has no attention
    unet_groups: int
    time_channels: int  # of the embedding of each of the six sizes
    sample_size: int  # native latent size; Turbo's is half
    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    text_hidden: int
    text_layers: int
    text_heads: int
    text_2_hidden: int  # and the size of the pooled prompt
    text_2_layers: int
    text_2_heads: int


PRESETS: Mapping[str, Architecture] = {
    "sdxl-tiny": Architecture((16, 16, 32), 1, (2, 2, 4), (1, 1, 2), 8, 8, 32, (16, 16, 32, 32), 1, 8,
                              16, 2, 2, 24, 3, 3),
    "sdxl": Architecture((320, 640, 1280), 2, (5, 10, 20), (1, 2, 10), 32, 256, 128, (128, 256, 512, 512), 2, 32,
                         768, 12, 12, 1280, 32, 20),
}  # fmt: skip


def make_sdxl(
    out: str | Path,
    *,
    preset: str = "sdxl-tiny",
    seed: int = 0,
    in_channels: int = 9,
    turbo: bool = False,
    half: bool = False,
    scheduler_config: Mapping[str, Any] | None = None,
    **architecture: Any,
) -> Path:
    """Write a checkpoint to the directory `out` and return it.

    in_channels: 9 (inpainting) or 4 (plain). turbo: SDXL-Turbo's scheduler and native size. half: weights stored as
    float16. scheduler_config: extra keys of scheduler_config.json. architecture: fields of `Architecture` to replace.
    """
    out = Path(out)
    parts = networks(preset, in_channels=in_channels, turbo=turbo, **architecture)
    write_networks(out, parts, {"unet": _calibrate_unet, "vae": calibrate_vae}, seed=seed, half=half)
    write_tokenizer(out / "tokenizer", EOS)
    write_tokenizer(out / "tokenizer_2", "!")
    scheduler = TURBO_SCHEDULER_CLASS if turbo else SCHEDULER_CLASS
    published = {
        **SCHEDULER_CONFIG,
        "prediction_type": "epsilon",
        "timestep_spacing": "trailing" if turbo else "leading",
    }
    write_scheduler(out, scheduler, {**published, **(scheduler_config or {})})
    others = {
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", scheduler],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    pipeline = "StableDiffusionXLInpaintPipeline" if in_channels == 9 else "StableDiffusionXLPipeline"
    write_index(out, pipeline, parts, others)
    return out


def networks(preset: str, *, in_channels: int = 9, turbo: bool = False, **architecture: Any) -> dict[str, Network]:
    """The four networks without their weights; the arguments are those of `make_sdxl`."""
    arch = replace(PRESETS[preset], **architecture)
    text = clip_config(arch.text_hidden, arch.text_layers, arch.text_heads, projection=arch.text_hidden, openclip=False)
    text_2 = clip_config(
        arch.text_2_hidden, arch.text_2_layers, arch.text_2_heads, projection=arch.text_2_hidden, openclip=True
    )
    levels = len(arch.unet_channels)
    unet = {
        "sample_size": arch.sample_size // 2 if turbo else arch.sample_size,
        "in_channels": in_channels,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        "up_block_types": ("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        "block_out_channels": arch.unet_channels,
        "layers_per_block": arch.unet_layers,
        "transformer_layers_per_block": arch.unet_depths,
        "norm_num_groups": arch.unet_groups,
        "cross_attention_dim": arch.text_hidden + arch.text_2_hidden,
        "attention_head_dim": arch.unet_heads,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": arch.time_channels,
        "projection_class_embeddings_input_dim": arch.text_2_hidden + TIME_IDS * arch.time_channels,
    }
    vae = vae_config(
        arch.vae_channels,
        arch.vae_layers,
        arch.vae_groups,
        sample_size=arch.sample_size,
        scaling_factor=SCALING_FACTOR,
    )
    return {
        "text_encoder": Network(CLIPTextModel, text),
        "text_encoder_2": Network(CLIPTextModelWithProjection, text_2),
        "unet": Network(UNet2DConditionModel, unet),
        "vae": Network(AutoencoderKL, vae),
    }


def _calibrate_unet(unet: UNet2DConditionModel) -> None:
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim
    calibrate_unet(unet, {"text_embeds": torch.randn(1, pooled), "time_ids": torch.full((1, TIME_IDS), 512.0)})
