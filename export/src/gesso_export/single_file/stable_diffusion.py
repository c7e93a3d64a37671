"""Stable Diffusion 1.x and 2.x in the original layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.checkpoint.claims import EPSILON, V_PREDICTION
from gesso_export.checkpoint.clip_vocabulary import EOS
from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Asked, Layout, Shapes, check_whole, under
from gesso_export.single_file.text_encoders import clip, openclip
from gesso_export.single_file.unet import FIRST, UNET, unet
from gesso_export.single_file.vae import VAE, vae

CLIP, OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
VAE_CONFIG: Mapping[str, Any] = {"scaling_factor": 0.18215, "sample_size": 512}  # which no shape says
PIXELS = 8  # of a latent
# Such a model has to begin at the last timestep (arXiv:2305.08891, section 3.3).
ZERO_SNR: Mapping[str, Any] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
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


def detect(shapes: Shapes, asked: Asked) -> Layout:
    networks = under(shapes, UNET, "UNet")
    check_whole(shapes, {"cond_stage_model.": "text encoder", **({} if asked.vae else {VAE: "VAE"})})
    second = any(key.startswith(OPENCLIP) for key in shapes)
    prediction = asked.claims.predicts(asked.prediction_type, None if second else EPSILON)
    if prediction is None:
        raise CheckpointError(
            "Stable Diffusion 2.x files do not say what their UNet predicts; give --prediction-type: v_prediction for "
            "those of 768 pixels, epsilon for the others"
        )
    native = asked.claims.native()
    default = 96 if second and prediction == V_PREDICTION else 64
    return Layout(
        what=f"Stable Diffusion {'2.x' if second else '1.x'}",
        pipeline="StableDiffusionInpaintPipeline" if networks[FIRST][1] == 9 else "StableDiffusionPipeline",
        parts=(
            unet(networks, sample_size=native // PIXELS if native else default),
            *([] if asked.vae else [vae(under(shapes, VAE, "VAE"), **VAE_CONFIG)]),
            openclip(under(shapes, OPENCLIP, "text encoder"), OPENCLIP)
            if second
            else clip(under(shapes, CLIP, "text encoder"), CLIP),
        ),
        tokenizers={"tokenizer": "!" if second else EOS},
        scheduler={
            "_class_name": SCHEDULER_CLASS,
            **SCHEDULER_CONFIG,
            "prediction_type": prediction,
            **(ZERO_SNR if asked.claims.has_zero_snr() else {}),
        },
        vae_config=VAE_CONFIG,
    )
