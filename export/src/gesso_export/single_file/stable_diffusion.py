"""Stable Diffusion 1.x and 2.x in the original layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.checkpoint.clip_vocabulary import EOS
from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Layout, Shapes, under
from gesso_export.single_file.text_encoders import clip, openclip
from gesso_export.single_file.unet import FIRST, UNET, unet
from gesso_export.single_file.vae import VAE, vae

CLIP, OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
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


def detect(shapes: Shapes, prediction_type: str | None) -> Layout:
    networks = under(shapes, UNET, "UNet")
    autoencoder = under(shapes, VAE, "VAE")
    under(shapes, "cond_stage_model.", "text encoder")
    second = any(key.startswith(OPENCLIP) for key in shapes)
    if second and prediction_type is None:
        raise CheckpointError(
            "Stable Diffusion 2.x files do not say what their UNet predicts; give --prediction-type: v_prediction for "
            "those of 768 pixels, epsilon for the others"
        )
    prediction = prediction_type or "epsilon"
    return Layout(
        what=f"Stable Diffusion {'2.x' if second else '1.x'}",
        pipeline="StableDiffusionInpaintPipeline" if networks[FIRST][1] == 9 else "StableDiffusionPipeline",
        parts=(
            unet(networks, sample_size=96 if second and prediction == "v_prediction" else 64),
            vae(autoencoder, scaling_factor=0.18215, sample_size=512),
            openclip(under(shapes, OPENCLIP, "text encoder"), OPENCLIP)
            if second
            else clip(under(shapes, CLIP, "text encoder"), CLIP),
        ),
        tokenizers={"tokenizer": "!" if second else EOS},
        scheduler={"_class_name": SCHEDULER_CLASS, **SCHEDULER_CONFIG, "prediction_type": prediction},
    )
