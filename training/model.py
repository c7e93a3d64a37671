"""The model: Stable Diffusion's inpainting layout, made small. Everything is diffusers' and transformers' own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from training.tokens import MAX_TOKENS, Vocabulary

SIZE = 128  # native, in pixels
FACTOR = 8
LATENT_CHANNELS = 4
TEXT_HIDDEN = 128

SCHEDULER_CONFIG: Mapping[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": diffusers.__version__,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}


def make_vae() -> AutoencoderKL:
    channels = (16, 48, 80, 96)
    return AutoencoderKL(
        sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=1.0,  # the latents are whitened in quant_conv, see training.vae
    )


def make_unet() -> UNet2DConditionModel:
    """Attention, to the words and to itself, at half the latents' size only: at the full size it costs a third more."""
    return UNet2DConditionModel(
        sample_size=SIZE // FACTOR,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 192),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TEXT_HIDDEN,
        attention_head_dim=3,  # what diffusers calls so is the number of heads
    )


def make_text_encoder(vocabulary: Vocabulary) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary.ids),
            hidden_size=TEXT_HIDDEN,
            intermediate_size=4 * TEXT_HIDDEN,
            projection_dim=TEXT_HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=vocabulary.bos,
            eos_token_id=vocabulary.eos,
            pad_token_id=vocabulary.eos,
        )
    )


def save(
    out: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vocabulary: Vocabulary,
) -> None:
    """Write the checkpoint as diffusers does, weights in float16."""
    networks: Sequence[tuple[str, Any]] = (("vae", vae), ("unet", unet), ("text_encoder", text_encoder))
    for name, network in networks:
        network.to("cpu", torch.float16, memory_format=torch.contiguous_format)
        network.save_pretrained(out / name, safe_serialization=True)
        network.float()
    vocabulary.write(out / "tokenizer")
    _write_json(out / "scheduler" / "scheduler_config.json", SCHEDULER_CONFIG)
    _write_json(
        out / "model_index.json",
        {
            "_class_name": "StableDiffusionInpaintPipeline",
            "_diffusers_version": diffusers.__version__,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", SCHEDULER_CONFIG["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
