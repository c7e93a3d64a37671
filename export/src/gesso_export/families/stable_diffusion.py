"""Stable Diffusion 1.x and 2.x: which checkpoints belong to it, and its four networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gesso_export.bundle.manifest import SchedulerSpec, SizeSpec
from gesso_export.bundle.parameters import (
    SAMPLERS,
    SCHEDULER_CLASSES,
    clip_parameters,
    common_parameters,
    default_sampler,
    diffusion_parameters,
    max_pixels,
)
from gesso_export.bundle.tensor import TOKENS, floats, ids, latents
from gesso_export.checkpoint.checkpoint import Checkpoint
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.checkpoint.embeddings import check as check_embeddings
from gesso_export.checkpoint.tokenizer import TokenizerSource
from gesso_export.errors import CheckpointError
from gesso_export.families import parts
from gesso_export.families.model import Model
from gesso_export.networks.clip import TextEncoder
from gesso_export.networks.network import Network, Role
from gesso_export.networks.unet import UNet
from gesso_export.proof.probes import below, latent_cases, normal, uniform

PIPELINES = ("StableDiffusionInpaintPipeline", "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")

_CLASSES: parts.Classes = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": parts.VAES,
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": parts.CLIP_TOKENIZERS,
    "scheduler": ("diffusers", SCHEDULER_CLASSES),
}
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")

# UNet options that add an input we would have to feed; each must be absent or off.
_UNSERVED_UNET_KEYS = (
    "class_embed_type",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)
_SDXL_UNET_KEYS = ("addition_embed_type", "projection_class_embeddings_input_dim")


def describe(checkpoint: Checkpoint, embeddings: Sequence[Embedding] = ()) -> Model:
    found = parts.components(checkpoint, _CLASSES, _LEFT_OUT)
    text, unet = parts.text_config(found["text_encoder"]), parts.with_defaults(found["unet"])
    vae = parts.vae_spec(found["vae"])
    check_unet(unet, vae.latent_channels, text["hidden_size"], also_unserved=_SDXL_UNET_KEYS)
    check_embeddings(embeddings, text["hidden_size"])
    scheduler = found["scheduler"].config()
    parts.check_diffusion_scheduler(scheduler)
    max_length = parts.max_tokens(found["tokenizer"], text["max_position_embeddings"])
    native = parts.latent_size(unet) * vae.factor
    size = SizeSpec(native=native, multiple=vae.factor, max_pixels=max_pixels(native))
    vocabulary = text["vocab_size"]
    tokens = vocabulary + sum(len(embedding.vectors) for embedding in embeddings)
    networks = (
        Network(
            "text_encoder",
            found["text_encoder"],
            parts.with_embeddings(TextEncoder, embeddings),
            inputs={
                "input_ids": ids(max_length),
                "clip_skip": ids(),
            },
            outputs={"prompt_embeds": floats(max_length, text["hidden_size"])},
            draws={"input_ids": below(tokens), "clip_skip": below(text["num_hidden_layers"])},
            cases=latent_cases(1),
            role=Role.TEXT_ENCODER,
        ),
        Network(
            "unet",
            found["unet"],
            UNet,
            inputs={
                "sample": latents(unet["in_channels"]),
                "timestep": floats(),
                "encoder_hidden_states": floats(TOKENS, text["hidden_size"]),
            },
            outputs={"noise_pred": latents(vae.latent_channels)},
            draws={"sample": normal(), "timestep": uniform(0, 1000), "encoder_hidden_states": normal()},
            cases=latent_cases(1, max_length),
            role=Role.DENOISER,
        ),
        *parts.vae_networks(found["vae"], vae, may_upcast=False),
    )
    sampler = default_sampler(found["scheduler"].class_name, scheduler)
    return Model(
        family="stable-diffusion",
        networks=networks,
        native_inpainting=unet["in_channels"] != vae.latent_channels,
        tokenizers={
            "text_encoder": TokenizerSource(
                found["tokenizer"], max_length, vocabulary, tuple(embeddings), text["eos_token_id"]
            ),
        },
        scheduler=SchedulerSpec(scheduler),
        vae=vae,
        size=size,
        parameters={
            **common_parameters(size, sampler, SAMPLERS, steps=50),
            **clip_parameters(max_clip_skip=text["num_hidden_layers"] - 1),
            **diffusion_parameters(guidance_scale=7.5),
        },
        task_defaults={"image_to_image": {"strength": 0.8}},
    )


def check_unet(unet: Mapping[str, Any], latents: int, text_width: int, also_unserved: Sequence[str] = ()) -> None:
    """Raises CheckpointError for a UNet whose inputs are not those that the backend feeds."""
    for key in (*_UNSERVED_UNET_KEYS, *also_unserved):
        if unet[key] is not None:
            raise CheckpointError(f"unet: {key} is {unet[key]!r}, which is not supported")
    if unet["attention_type"] != "default":
        raise CheckpointError(f"unet: attention_type is {unet['attention_type']!r}, which is not supported")
    parts.check_channels("unet", unet["in_channels"], unet["out_channels"], latents, 2 * latents + 1)
    if unet["cross_attention_dim"] != text_width:
        wide = unet["cross_attention_dim"]
        raise CheckpointError(f"unet: cross_attention_dim is {wide}, but the text encoder's hidden_size {text_width}")
