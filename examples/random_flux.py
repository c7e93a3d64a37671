"""Write a FLUX.1 checkpoint with random weights, in the diffusers format: see random_checkpoint.py, which runs this.

The full-size networks without their weights, for tools that only count:

    with torch.device("meta"):
        transformer = networks("flux", variant="fill")["transformer"].build()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from transformers import CLIPTextModel, T5EncoderModel

import t5_vocabulary
from gesso_export.checkpoint import clip_vocabulary
from gesso_export.single_file.flux import SCHEDULER_CLASS
from gesso_export.single_file.flux import scheduler_config as published_schedule
from random_networks import (
    Network,
    calibrate_vae,
    clip_config,
    rescale,
    vae_config,
    write_index,
    write_networks,
    write_scheduler,
)

VARIANTS = ("dev", "fill", "schnell")
LATENT_CHANNELS = 16
SCALING_FACTOR, SHIFT_FACTOR = 0.3611, 0.1159
PATCH = 2  # latents are packed in squares of this side: one token each
SPARE_ROWS = 28  # of the T5 embedding: it is published with 32128 rows for 32100 pieces


@dataclass(frozen=True)
class Architecture:
    """Sizes of the four networks; a preset names one, and every field can be replaced."""

    double_layers: int
    single_layers: int
    heads: int
    rope_axes: tuple[int, int, int]  # their sum is the size of a head
    sample_size: int  # native latent size
    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    text_hidden: int
    text_layers: int
    text_heads: int
    t5_hidden: int
    t5_inner: int
    t5_layers: int
    t5_heads: int
    t5_head_size: int
    t5_vocabulary: int  # rows of the embedding


PRESETS: Mapping[str, Architecture] = {
    "flux-tiny": Architecture(1, 2, 2, (4, 6, 6), 32, (16, 16, 32, 32), 1, 8, 16, 2, 2, 32, 64, 2, 4, 8, 1024),
    "flux": Architecture(19, 38, 24, (16, 56, 56), 128, (128, 256, 512, 512), 2, 32, 768, 12, 12,
                         4096, 10240, 24, 64, 64, 32128),
}  # fmt: skip


def make_flux(
    out: str | Path,
    *,
    preset: str = "flux-tiny",
    variant: str = "fill",
    seed: int = 0,
    half: bool = False,
    scheduler_config: Mapping[str, Any] | None = None,
    **architecture: Any,
) -> Path:
    """Write a checkpoint to the directory `out` and return it.

    variant: "dev", "schnell" (no guidance, another schedule) or "fill" (inpainting). half: weights stored as float16.
    scheduler_config: extra keys of scheduler_config.json. architecture: fields of `Architecture` to replace.
    """
    out = Path(out)
    parts = networks(preset, variant=variant, **architecture)
    write_networks(out, parts, {"transformer": _calibrate_transformer, "vae": calibrate_vae}, seed=seed, half=half)
    clip_vocabulary.write_tokenizer(out / "tokenizer")
    t5_vocabulary.write_tokenizer(out / "tokenizer_2", parts["text_encoder_2"].config["vocab_size"] - SPARE_ROWS)
    write_scheduler(out, SCHEDULER_CLASS, {**published_schedule(variant != "schnell"), **(scheduler_config or {})})
    others = {
        "scheduler": ["diffusers", SCHEDULER_CLASS],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
    }
    write_index(out, "FluxFillPipeline" if variant == "fill" else "FluxPipeline", parts, others)
    return out


def networks(preset: str, *, variant: str = "fill", **architecture: Any) -> dict[str, Network]:
    """The four networks without their weights; the arguments are those of `make_flux`."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is none of {', '.join(VARIANTS)}")
    arch = replace(PRESETS[preset], **architecture)
    text = clip_config(arch.text_hidden, arch.text_layers, arch.text_heads, projection=arch.text_hidden, openclip=False)
    text_2 = {
        "vocab_size": arch.t5_vocabulary,
        "d_model": arch.t5_hidden,
        "d_ff": arch.t5_inner,
        "d_kv": arch.t5_head_size,
        "num_layers": arch.t5_layers,
        "num_heads": arch.t5_heads,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    packed = LATENT_CHANNELS * PATCH**2
    factor = 2 ** (len(arch.vae_channels) - 1)
    # Fill's tokens: noise, the masked picture's latents, and every pixel of the mask.
    filled = 2 * packed + (factor * PATCH) ** 2
    transformer = {
        "in_channels": filled if variant == "fill" else packed,
        "out_channels": packed,
        "num_layers": arch.double_layers,
        "num_single_layers": arch.single_layers,
        "attention_head_dim": sum(arch.rope_axes),
        "num_attention_heads": arch.heads,
        "joint_attention_dim": arch.t5_hidden,
        "pooled_projection_dim": arch.text_hidden,
        "guidance_embeds": variant != "schnell",
        "axes_dims_rope": arch.rope_axes,
    }
    vae = {
        **vae_config(
            arch.vae_channels,
            arch.vae_layers,
            arch.vae_groups,
            sample_size=arch.sample_size,
            scaling_factor=SCALING_FACTOR,
        ),
        "latent_channels": LATENT_CHANNELS,
        "shift_factor": SHIFT_FACTOR,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return {
        "text_encoder": Network(CLIPTextModel, text),
        "text_encoder_2": Network(T5EncoderModel, text_2),
        "transformer": Network(FluxTransformer2DModel, transformer),
        "vae": Network(AutoencoderKL, vae),
    }


def _calibrate_transformer(transformer: FluxTransformer2DModel) -> None:
    """Velocities of unit deviation, on which the prompt, the guidance and the other tokens have a say."""
    config, side, words = transformer.config, 8, 32
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)  # [tokens, 3]
    timestep, pooled = torch.tensor([0.5]), torch.randn(1, config.pooled_projection_dim)
    guidance = torch.tensor([3.5]) if config.guidance_embeds else None
    conditions = [1000 * timestep, pooled] if guidance is None else [1000 * timestep, 1000 * guidance, pooled]
    embedding = torch.nn.functional.silu(transformer.time_text_embed(*conditions))
    for layer in transformer.modules():
        # Untrained gates let almost nothing of a block through.
        if isinstance(layer, (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)):
            rescale(layer.linear, layer.linear(embedding).std())
    velocity = transformer(
        hidden_states=torch.randn(1, side**2, config.in_channels),
        encoder_hidden_states=torch.randn(1, words, config.joint_attention_dim),
        pooled_projections=pooled,
        timestep=timestep,
        img_ids=places.float(),
        txt_ids=torch.zeros(words, 3),
        guidance=guidance,
    ).sample
    rescale(transformer.proj_out, velocity.std())
