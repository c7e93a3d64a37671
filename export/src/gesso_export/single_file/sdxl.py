"""Stable Diffusion XL and its inpainting variants in the original layout.

Nothing in a file tells Turbo from the base model, or a model distilled otherwise (Lightning, LCM): see `turbo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.checkpoint.clip_vocabulary import EOS
from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Layout, Shapes, under
from gesso_export.single_file.stable_diffusion import SCHEDULER_CONFIG as FIRST_SCHEDULER_CONFIG
from gesso_export.single_file.text_encoders import clip, openclip_with_projection
from gesso_export.single_file.unet import FIRST, UNET, unet
from gesso_export.single_file.vae import VAE, vae

CLIP, OPENCLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
KEY = f"{OPENCLIP}ln_final.weight"  # which only these files have
# Empty tensors by which a file says how it was trained: for v-prediction, and to a terminal signal of zero.
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
_TIME_IDS = 6  # original size, crop, target size: two numbers each

SCHEDULER_CLASS, TURBO_SCHEDULER_CLASS = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
SCHEDULER_CONFIG: Mapping[str, Any] = {
    **FIRST_SCHEDULER_CONFIG,
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}


def detect(shapes: Shapes, prediction_type: str | None, turbo: bool) -> Layout:
    """turbo: with SDXL-Turbo's scheduler and native size."""
    networks = under(shapes, UNET, "UNet")
    second = openclip_with_projection(under(shapes, OPENCLIP, "second text encoder"), OPENCLIP)
    prediction = prediction_type or ("v_prediction" if V_PREDICTION in shapes else "epsilon")
    return Layout(
        what="Stable Diffusion XL",
        pipeline="StableDiffusionXLInpaintPipeline" if networks[FIRST][1] == 9 else "StableDiffusionXLPipeline",
        parts=(
            unet(networks, 64 if turbo else 128, _additions(networks, second.config["projection_dim"])),
            vae(under(shapes, VAE, "VAE"), scaling_factor=0.13025, sample_size=1024, force_upcast=True),
            clip(under(shapes, CLIP, "text encoder"), CLIP),
            second,
        ),
        tokenizers={"tokenizer": EOS, "tokenizer_2": "!"},
        scheduler={
            "_class_name": TURBO_SCHEDULER_CLASS if turbo else SCHEDULER_CLASS,
            **SCHEDULER_CONFIG,
            "prediction_type": prediction,
            **({"timestep_spacing": "trailing"} if turbo else {}),
            # Such a model has to begin at the last timestep (arXiv:2305.08891, section 3.3).
            **({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if ZERO_SNR in shapes else {}),
        },
        options={"force_zeros_for_empty_prompt": True},
    )


def _additions(shapes: Shapes, pooled: int) -> dict[str, Any]:
    """The config of the UNet's other inputs: the pooled prompt and the six sizes."""
    width = shapes["label_emb.0.0.weight"][1]
    if width <= pooled or (width - pooled) % _TIME_IDS:
        raise CheckpointError(f"the UNet's label_emb takes {width} numbers, the pooled prompt has {pooled}: not SDXL's")
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - pooled) // _TIME_IDS,
        "projection_class_embeddings_input_dim": width,
    }
