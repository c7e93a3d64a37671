"""Stable Diffusion XL and its inpainting variants in the original layout.

Nothing in a file tells Turbo from the base model, or a model distilled otherwise (Lightning, LCM): see `--turbo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.checkpoint.claims import EPSILON, V_MARK, ZERO_SNR_MARK
from gesso_export.checkpoint.clip_vocabulary import EOS
from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Asked, Layout, Shapes, check_whole, under
from gesso_export.single_file.stable_diffusion import PIXELS
from gesso_export.single_file.stable_diffusion import SCHEDULER_CONFIG as FIRST_SCHEDULER_CONFIG
from gesso_export.single_file.stable_diffusion import ZERO_SNR as ZERO_SNR_CONFIG
from gesso_export.single_file.text_encoders import clip, openclip_with_projection
from gesso_export.single_file.unet import FIRST, UNET, unet
from gesso_export.single_file.vae import VAE, vae

CLIP, OPENCLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
KEY = f"{OPENCLIP}ln_final.weight"  # which only these files have
V_PREDICTION, ZERO_SNR = V_MARK, ZERO_SNR_MARK
VAE_CONFIG: Mapping[str, Any] = {"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True}
_TIME_IDS = 6  # original size, crop, target size: two numbers each

SCHEDULER_CLASS, TURBO_SCHEDULER_CLASS = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
SCHEDULER_CONFIG: Mapping[str, Any] = {
    **FIRST_SCHEDULER_CONFIG,
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}


def detect(shapes: Shapes, asked: Asked) -> Layout:
    networks = under(shapes, UNET, "UNet")
    second = openclip_with_projection(under(shapes, OPENCLIP, "second text encoder"), OPENCLIP)
    check_whole(shapes, {CLIP: "text encoder", **({} if asked.vae else {VAE: "VAE"})})
    native = asked.claims.native()
    return Layout(
        what="Stable Diffusion XL",
        pipeline="StableDiffusionXLInpaintPipeline" if networks[FIRST][1] == 9 else "StableDiffusionXLPipeline",
        parts=(
            unet(
                networks,
                64 if asked.turbo else native // PIXELS if native else 128,
                _additions(networks, second.config["projection_dim"]),
            ),
            *([] if asked.vae else [vae(under(shapes, VAE, "VAE"), **VAE_CONFIG)]),
            clip(under(shapes, CLIP, "text encoder"), CLIP),
            second,
        ),
        tokenizers={"tokenizer": EOS, "tokenizer_2": "!"},
        scheduler={
            "_class_name": TURBO_SCHEDULER_CLASS if asked.turbo else SCHEDULER_CLASS,
            **SCHEDULER_CONFIG,
            "prediction_type": asked.claims.predicts(asked.prediction_type, EPSILON),
            **({"timestep_spacing": "trailing"} if asked.turbo else {}),
            **(ZERO_SNR_CONFIG if asked.claims.has_zero_snr() else {}),
        },
        options={"force_zeros_for_empty_prompt": True},
        vae_config=VAE_CONFIG,
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
