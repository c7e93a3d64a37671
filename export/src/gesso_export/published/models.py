"""The published models that are served, as configs without weights, and how many parameters their networks have.

The configs hold what the published ones say of the networks, and leave out what those leave out. They are one table,
and so one file, however long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso_export.checkpoint.checkpoint import Checkpoint, StatedComponent
from gesso_export.single_file import flux, sdxl
from gesso_export.single_file.stable_diffusion import SCHEDULER_CONFIG

Config = Mapping[str, Any]


class PublishedComponent(StatedComponent):
    """A component of which there is only the config."""


@dataclass(frozen=True)
class Count:
    """How many parameters a network has."""

    parameters: int
    published: bool = True  # stated in public by others; if not, it is what we count, and guards against change


@dataclass(frozen=True)
class PublishedModel:
    checkpoint: Checkpoint
    counts: Mapping[str, Count]  # by network


def _model(
    repository: str,
    pipeline: str,
    counts: Mapping[str, Count],
    components: Mapping[str, tuple[str, str, Config]],
    **options: Any,
) -> PublishedModel:
    """components: library, class and config of each. options: of model_index.json."""
    parts = {name: PublishedComponent(name, *part[:2], Path(name), part[2]) for name, part in components.items()}
    return PublishedModel(Checkpoint(Path(), repository, None, pipeline, parts, options), counts)


# Text encoders and tokenizers


def _clip(hidden: int, layers: int, heads: int, projection: int, act: str) -> Config:
    return {
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": projection,
        "hidden_act": act,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


_CLIP_L = ("transformers", "CLIPTextModel", _clip(768, 12, 12, 768, "quick_gelu"))
_OPENCLIP_H = ("transformers", "CLIPTextModel", _clip(1024, 23, 16, 512, "gelu"))
_OPENCLIP_G = ("transformers", "CLIPTextModelWithProjection", _clip(1280, 32, 20, 1280, "gelu"))
_T5_XXL = (
    "transformers",
    "T5EncoderModel",
    {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
)
_CLIP_TOKENIZER = ("transformers", "CLIPTokenizer", {"model_max_length": 77})


# VAEs


def _vae(sample_size: int, **options: Any) -> tuple[str, str, Config]:
    config = {
        "act_fn": "silu",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "sample_size": sample_size,
        **options,
    }
    return "diffusers", "AutoencoderKL", config


# The whole VAE is published, as 83,653,863 and 83,819,683; a bundle has its halves.
_VAE_COUNTS = {"vae_encoder": Count(34_163_664, published=False), "vae_decoder": Count(49_490_199, published=False)}
_FLUX_VAE_COUNTS = {
    "vae_encoder": Count(34_274_208, published=False),
    "vae_decoder": Count(49_545_475, published=False),
}


# Stable Diffusion 1.x and 2.x

_UNET: Config = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
}
_SD_UNET: Config = {
    **_UNET,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_SD1_UNET: Config = {**_SD_UNET, "sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768}
_SD2_UNET: Config = {
    **_SD_UNET,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "use_linear_projection": True,
}


def _stable_diffusion(
    repository: str,
    text_encoder: tuple[str, str, Config],
    text_count: int,
    unet: Config,
    unet_count: Count,
    scheduler: str,
    **scheduler_options: Any,
) -> PublishedModel:
    inpaints = unet["in_channels"] == 9
    return _model(
        repository,
        "StableDiffusionInpaintPipeline" if inpaints else "StableDiffusionPipeline",
        {"text_encoder": Count(text_count), "unet": unet_count, **_VAE_COUNTS},
        {
            "feature_extractor": ("transformers", "CLIPImageProcessor", {}),
            "safety_checker": ("stable_diffusion", "StableDiffusionSafetyChecker", {}),
            "scheduler": ("diffusers", scheduler, {**SCHEDULER_CONFIG, "_class_name": scheduler, **scheduler_options}),
            "text_encoder": text_encoder,
            "tokenizer": _CLIP_TOKENIZER,
            "unet": ("diffusers", "UNet2DConditionModel", unet),
            "vae": _vae(768 if unet["sample_size"] == 96 else 512),
        },
    )


def _sd1(repository: str, in_channels: int, unet_count: Count, scheduler: str) -> PublishedModel:
    unet = {**_SD1_UNET, "in_channels": in_channels}
    return _stable_diffusion(repository, _CLIP_L, 123_060_480, unet, unet_count, scheduler)


def _sd2(repository: str, unet: Config, unet_count: Count, scheduler: str, **options: Any) -> PublishedModel:
    return _stable_diffusion(
        repository, _OPENCLIP_H, 340_387_840, {**_SD2_UNET, **unet}, unet_count, scheduler, **options
    )


# Stable Diffusion XL

_SDXL_UNET: Config = {
    **_UNET,
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_class_embeds": None,
    "projection_class_embeddings_input_dim": 2816,
    "time_cond_proj_dim": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


def _sdxl(
    repository: str,
    in_channels: int = 4,
    unet_count: int = 2_567_463_684,
    sample_size: int = 128,
    scheduler: str = "EulerDiscreteScheduler",
    timestep_spacing: str = "leading",
    **options: Any,
) -> PublishedModel:
    scheduler_config = {
        **sdxl.SCHEDULER_CONFIG,
        "_class_name": scheduler,
        "prediction_type": "epsilon",
        "timestep_spacing": timestep_spacing,
    }
    unet = {**_SDXL_UNET, "in_channels": in_channels, "sample_size": sample_size}
    return _model(
        repository,
        "StableDiffusionXLInpaintPipeline" if in_channels == 9 else "StableDiffusionXLPipeline",
        {
            "text_encoder": Count(123_060_480),
            "text_encoder_2": Count(694_659_840),
            "unet": Count(unet_count),
            **_VAE_COUNTS,
        },
        {
            "scheduler": ("diffusers", scheduler, scheduler_config),
            "text_encoder": _CLIP_L,
            "text_encoder_2": _OPENCLIP_G,
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": _CLIP_TOKENIZER,
            "unet": ("diffusers", "UNet2DConditionModel", unet),
            "vae": _vae(1024, scaling_factor=0.13025, force_upcast=True),
        },
        force_zeros_for_empty_prompt=True,
        **options,
    )


# FLUX.1


def _flux(
    repository: str, transformer_count: int, *, pipeline: str = "FluxPipeline", guided: bool = True, **options: Any
) -> PublishedModel:
    """options: of the transformer."""
    scheduler = {"_class_name": flux.SCHEDULER_CLASS, **flux.scheduler_config(guided)}
    transformer = {
        "attention_head_dim": 128,
        "guidance_embeds": guided,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
        **options,
    }
    vae = {
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "latents_mean": None,
        "latents_std": None,
        "force_upcast": True,
        "mid_block_add_attention": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return _model(
        repository,
        pipeline,
        {
            "text_encoder": Count(123_060_480),
            "text_encoder_2": Count(4_762_310_656),
            "transformer": Count(transformer_count),
            **_FLUX_VAE_COUNTS,
        },
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", scheduler),
            "text_encoder": _CLIP_L,
            "text_encoder_2": _T5_XXL,
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": ("transformers", "T5TokenizerFast", {"model_max_length": 512 if guided else 256}),
            "transformer": ("diffusers", "FluxTransformer2DModel", transformer),
            "vae": _vae(1024, **vae),
        },
    )


MODELS: dict[str, PublishedModel] = {
    "sd14": _sd1("CompVis/stable-diffusion-v1-4", 4, Count(859_520_964), "PNDMScheduler"),
    "sd15": _sd1("stable-diffusion-v1-5/stable-diffusion-v1-5", 4, Count(859_520_964), "PNDMScheduler"),
    "sd15-inpaint": _sd1(
        "stable-diffusion-v1-5/stable-diffusion-inpainting", 9, Count(859_535_364, published=False), "DDIMScheduler"
    ),
    "sd21": _sd2(
        "stabilityai/stable-diffusion-2-1",
        {"in_channels": 4, "sample_size": 96, "num_class_embeds": None, "upcast_attention": True},
        Count(865_910_724),
        "DDIMScheduler",
        prediction_type="v_prediction",
    ),
    "sd2-inpaint": _sd2(
        "stabilityai/stable-diffusion-2-inpainting",
        {"in_channels": 9, "sample_size": 64},
        Count(865_925_124),
        "PNDMScheduler",
    ),
    "sdxl": _sdxl("stabilityai/stable-diffusion-xl-base-1.0"),
    "sdxl-inpaint": _sdxl(
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1", 9, 2_567_478_084, requires_aesthetics_score=False
    ),
    "sdxl-turbo": _sdxl(
        "stabilityai/sdxl-turbo",
        sample_size=64,
        scheduler="EulerAncestralDiscreteScheduler",
        timestep_spacing="trailing",
    ),
    "flux-dev": _flux("black-forest-labs/FLUX.1-dev", 11_901_408_320),
    "flux-schnell": _flux("black-forest-labs/FLUX.1-schnell", 11_891_178_560, guided=False),
    "flux-fill": _flux(
        "black-forest-labs/FLUX.1-Fill-dev",
        11_902_391_360,
        pipeline="FluxFillPipeline",
        in_channels=384,
        out_channels=64,
        axes_dims_rope=[16, 56, 56],
    ),
}
