"""Stable Diffusion 1.x and 2.x: which checkpoints belong to it, and its four networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gesso_export.checkpoint import Checkpoint
from gesso_export.embeddings import Embedding
from gesso_export.embeddings import check as check_embeddings
from gesso_export.errors import CheckpointError
from gesso_export.families import parts
from gesso_export.manifest import SchedulerSpec, SizeSpec, TensorSpec
from gesso_export.networks import Network, TextEncoder, UNet
from gesso_export.parameters import (
    SAMPLERS,
    SCHEDULER_CLASSES,
    clip_parameters,
    common_parameters,
    default_sampler,
    diffusion_parameters,
    max_pixels,
)
from gesso_export.sampling import below, latent_cases, normal, uniform
from gesso_export.tokenizer import TokenizerSource

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


def describe(checkpoint: Checkpoint, embeddings: Sequence[Embedding] = ()) -> parts.Model:
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
                "input_ids": TensorSpec("int64", ("batch", max_length)),
                "clip_skip": TensorSpec("int64", ("batch",)),
            },
            outputs={"prompt_embeds": TensorSpec("float32", ("batch", max_length, text["hidden_size"]))},
            draws={"input_ids": below(tokens), "clip_skip": below(text["num_hidden_layers"])},
            cases=latent_cases(1),
        ),
        Network(
            "unet",
            found["unet"],
            UNet,
            inputs={
                "sample": TensorSpec("float32", ("batch", unet["in_channels"], "height", "width")),
                "timestep": TensorSpec("float32", ("batch",)),
                "encoder_hidden_states": TensorSpec("float32", ("batch", "tokens", text["hidden_size"])),
            },
            outputs={"noise_pred": TensorSpec("float32", ("batch", vae.latent_channels, "height", "width"))},
            draws={"sample": normal(), "timestep": uniform(0, 1000), "encoder_hidden_states": normal()},
            cases=latent_cases(1, max_length),
        ),
        *parts.vae_networks(found["vae"], vae, may_upcast=False),
    )
    sampler = default_sampler(found["scheduler"].class_name, scheduler)
    return parts.Model(
        family="stable-diffusion",
        networks=networks,
        tokenizers={
            "text_encoder": TokenizerSource(found["tokenizer"], max_length, vocabulary, tuple(embeddings)),
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
