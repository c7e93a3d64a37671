"""Stable Diffusion XL, its inpainting variants and Turbo: which checkpoints belong to it, and its five networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gesso_export.bundle.manifest import Scalar, SchedulerSpec, SizeSpec
from gesso_export.bundle.parameters import (
    SAMPLERS,
    SCHEDULER_CLASSES,
    clip_parameters,
    common_parameters,
    default_sampler,
    diffusion_parameters,
    max_pixels,
    second_prompts,
    size_conditions,
)
from gesso_export.bundle.tensor import TOKENS, floats, ids, latents
from gesso_export.checkpoint.checkpoint import Checkpoint, Component
from gesso_export.checkpoint.embeddings import Embedding, of_each_encoder
from gesso_export.checkpoint.embeddings import check as check_embeddings
from gesso_export.checkpoint.tokenizer import TokenizerSource
from gesso_export.errors import CheckpointError
from gesso_export.families import parts
from gesso_export.families.model import Model
from gesso_export.families.stable_diffusion import check_unet
from gesso_export.networks.clip import PenultimateTextEncoder, PooledTextEncoder
from gesso_export.networks.network import Network, Role
from gesso_export.networks.unet import TextTimeUNet
from gesso_export.proof.probes import below, latent_cases, normal, uniform

PIPELINES = (
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)

_CLASSES: parts.Classes = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": parts.VAES,
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
    "tokenizer": parts.CLIP_TOKENIZERS,
    "tokenizer_2": parts.CLIP_TOKENIZERS,
    "scheduler": ("diffusers", SCHEDULER_CLASSES),
}
_LEFT_OUT = ("feature_extractor", "image_encoder")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TIME_IDS = 6  # original size, corner of the crop, target size


def describe(checkpoint: Checkpoint, embeddings: Sequence[Embedding] = ()) -> Model:
    found = parts.components(checkpoint, _CLASSES, _LEFT_OUT)
    if checkpoint.index.get("requires_aesthetics_score"):
        raise CheckpointError("requires_aesthetics_score: the SDXL refiner is not supported")
    texts = {name: parts.text_config(found[name]) for name in _TEXT_ENCODERS}
    inversions = dict(zip(_TEXT_ENCODERS, of_each_encoder(embeddings), strict=True))
    for name, added in inversions.items():
        check_embeddings(added, texts[name]["hidden_size"])
    tokens = {
        name: texts[name]["vocab_size"] + sum(len(embedding.vectors) for embedding in added)
        for name, added in inversions.items()
    }
    unet, vae = parts.with_defaults(found["unet"]), parts.vae_spec(found["vae"])
    width = sum(text["hidden_size"] for text in texts.values())
    pooled = texts["text_encoder_2"]["projection_dim"]
    check_unet(unet, vae.latent_channels, width)
    _check_additions(unet, pooled)
    scheduler = found["scheduler"].config()
    parts.check_diffusion_scheduler(scheduler)
    native = parts.latent_size(unet) * vae.factor
    size = SizeSpec(native=native, multiple=vae.factor, max_pixels=max_pixels(native))
    max_length = {
        name: parts.max_tokens(found[_tokenizer_of(name)], text["max_position_embeddings"])
        for name, text in texts.items()
    }
    if len(set(max_length.values())) > 1:
        raise CheckpointError(
            f"tokenizer_2: texts of {max_length['text_encoder_2']} tokens, but the first one's differ"
        )
    layers = min(text["num_hidden_layers"] for text in texts.values())
    text_outputs = {
        name: {"prompt_embeds": floats(max_length[name], text["hidden_size"])} for name, text in texts.items()
    }
    text_outputs["text_encoder_2"]["text_embeds"] = floats(pooled)
    modules = {"text_encoder": PenultimateTextEncoder, "text_encoder_2": PooledTextEncoder}
    networks = (
        *(
            Network(
                name,
                found[name],
                parts.with_embeddings(modules[name], inversions[name]),
                inputs={
                    "input_ids": ids(max_length[name]),
                    "clip_skip": ids(),
                },
                outputs=text_outputs[name],
                draws={"input_ids": below(tokens[name]), "clip_skip": below(layers - 1)},
                cases=latent_cases(1),
                role=Role.TEXT_ENCODER,
            )
            for name in _TEXT_ENCODERS
        ),
        Network(
            "unet",
            found["unet"],
            TextTimeUNet,
            inputs={
                "sample": latents(unet["in_channels"]),
                "timestep": floats(),
                "encoder_hidden_states": floats(TOKENS, width),
                "text_embeds": floats(pooled),
                "time_ids": floats(TIME_IDS),
            },
            outputs={"noise_pred": latents(vae.latent_channels)},
            draws={
                "sample": normal(),
                "timestep": uniform(0, 1000),
                "encoder_hidden_states": normal(),
                "text_embeds": normal(),
                "time_ids": uniform(0, 1024),
            },
            cases=latent_cases(1, max_length["text_encoder"]),
            role=Role.DENOISER,
        ),
        *parts.vae_networks(found["vae"], vae, may_upcast=True),
    )
    sampler = default_sampler(found["scheduler"].class_name, scheduler)
    turbo = _is_turbo(found["scheduler"], scheduler)
    zeros = bool(checkpoint.index.get("force_zeros_for_empty_prompt", True))  # diffusers' own default
    return Model(
        family="stable-diffusion-xl",
        networks=networks,
        native_inpainting=unet["in_channels"] != vae.latent_channels,
        tokenizers={
            name: TokenizerSource(
                found[_tokenizer_of(name)],
                max_length[name],
                texts[name]["vocab_size"],
                tuple(inversions[name]),
                texts[name]["eos_token_id"],
            )
            for name in _TEXT_ENCODERS
        },
        scheduler=SchedulerSpec(scheduler),
        vae=vae,
        size=size,
        parameters={
            **common_parameters(size, sampler, SAMPLERS, steps=1 if turbo else 50),
            **clip_parameters(max_clip_skip=layers - 2),
            **second_prompts(),
            **diffusion_parameters(guidance_scale=0.0 if turbo else 5.0),
            **size_conditions(),
        },
        task_defaults=_task_defaults(turbo),
        options={"force_zeros_for_empty_prompt": zeros},
    )


def _task_defaults(turbo: bool) -> dict[str, dict[str, Scalar]]:
    """Below a strength of 1 the picture's colours hold what the inpainting UNet paints to them, as its card advises."""
    if turbo:  # the strength must leave a step
        return {"inpaint": {"num_inference_steps": 4}, "image_to_image": {"num_inference_steps": 2, "strength": 0.5}}
    return {"inpaint": {"strength": 0.99}, "image_to_image": {"strength": 0.3}}


def _is_turbo(component: Component, config: Mapping[str, Any]) -> bool:
    """Whether the model is distilled to a few steps without guidance, by the scheduler that SDXL-Turbo comes with."""
    ancestral = component.class_name == "EulerAncestralDiscreteScheduler"
    return ancestral and config.get("timestep_spacing") == "trailing"


def _check_additions(unet: Mapping[str, Any], pooled: int) -> None:
    if unet["addition_embed_type"] != "text_time":
        raise CheckpointError(f"unet: addition_embed_type is {unet['addition_embed_type']!r}; SDXL's is 'text_time'")
    if unet["addition_time_embed_dim"] is None:
        raise CheckpointError("unet: there is no addition_time_embed_dim, which SDXL's have")
    expected = pooled + TIME_IDS * unet["addition_time_embed_dim"]
    found = unet["projection_class_embeddings_input_dim"]
    if found != expected:
        raise CheckpointError(f"unet: projection_class_embeddings_input_dim is {found}, not {expected}: no base model")


def _tokenizer_of(text_encoder: str) -> str:
    return text_encoder.replace("text_encoder", "tokenizer")
