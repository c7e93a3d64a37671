"""The family Stable Diffusion 1.x and 2.x: which checkpoints belong to it, and its four networks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gesso_export.checkpoint import Checkpoint, Component, Weights, find_weights
from gesso_export.embeddings import Embedding, extend
from gesso_export.embeddings import check as check_embeddings
from gesso_export.errors import CheckpointError, first_line
from gesso_export.loading import load_model
from gesso_export.manifest import SchedulerSpec, SizeSpec, TensorSpec, VaeSpec
from gesso_export.networks import Network, NetworkModule, TextEncoder, UNet, VaeDecoder, VaeEncoder
from gesso_export.parameters import SCHEDULER_CLASSES, default_sampler, max_pixels
from gesso_export.sampling import below, latent_cases, normal, uniform

FAMILY = "stable-diffusion"
PIPELINES = ("StableDiffusionInpaintPipeline", "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")

# What each component may be: library and class names. Nothing else is ever imported or called.
_CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "scheduler": ("diffusers", SCHEDULER_CLASSES),
}
# Parts of a pipeline that take no part in painting the picture.
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")

# UNet options that add an input we would have to feed; each must be absent or off.
_UNSERVED_UNET_KEYS = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "projection_class_embeddings_input_dim",
    "time_cond_proj_dim",
)
_PREDICTION_TYPES = ("epsilon", "v_prediction")
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class StableDiffusion:
    """What a checkpoint of this family amounts to."""

    networks: tuple[Network, ...]
    weights: Mapping[str, Weights]
    tokenizer: Component
    max_length: int  # tokens of a prompt
    text_layers: int
    vocabulary: int  # rows of the text encoder's token table, without embeddings
    embeddings: tuple[Embedding, ...]
    scheduler: SchedulerSpec
    sampler: str
    vae: VaeSpec
    size: SizeSpec


def describe(checkpoint: Checkpoint, embeddings: Sequence[Embedding] = ()) -> StableDiffusion:
    """Hold a checkpoint against what the backend serves. Raises CheckpointError naming what does not fit.

    embeddings: textual inversions to add to its text encoder.
    """
    parts = _components(checkpoint)
    text, unet, vae = _text_config(parts["text_encoder"]), _with_defaults(parts["unet"]), _vae(parts["vae"])
    _check_unet(unet, vae, text["hidden_size"])
    check_embeddings(embeddings, text["hidden_size"])
    scheduler = parts["scheduler"].config()
    _check_scheduler(scheduler)
    positions = text["max_position_embeddings"]
    max_length = int(min(parts["tokenizer"].config().get("model_max_length", positions), positions))
    weights = {name: find_weights(parts[name]) for name in ("text_encoder", "unet", "vae")}
    native = _latent_size(unet) * vae.factor
    return StableDiffusion(
        networks=_networks(parts, weights, unet["in_channels"], vae, text, max_length, embeddings),
        weights=weights,
        tokenizer=parts["tokenizer"],
        max_length=max_length,
        text_layers=text["num_hidden_layers"],
        vocabulary=text["vocab_size"],
        embeddings=tuple(embeddings),
        scheduler=SchedulerSpec(scheduler),
        sampler=default_sampler(parts["scheduler"].class_name, scheduler),
        vae=vae,
        size=SizeSpec(native=native, multiple=vae.factor, max_pixels=max_pixels(native)),
    )


def _components(checkpoint: Checkpoint) -> Mapping[str, Component]:
    if checkpoint.pipeline not in PIPELINES:
        raise CheckpointError(f"pipeline {checkpoint.pipeline} is not supported; supported are {', '.join(PIPELINES)}")
    for name, (library, classes) in _CLASSES.items():
        if name not in checkpoint.components:
            raise CheckpointError(f"the checkpoint has no {name}")
        component = checkpoint.components[name]
        if component.library != library or component.class_name not in classes:
            found = f"{component.library}.{component.class_name}"
            raise CheckpointError(f"{name}: {found} is not supported; supported in {library} are {', '.join(classes)}")
    for name, component in checkpoint.components.items():
        if name not in _CLASSES and name not in _LEFT_OUT:
            raise CheckpointError(f"component {name} ({component.class_name}) is not supported")
    return checkpoint.components


def _text_config(component: Component) -> dict[str, Any]:
    """The text encoder's config with transformers' own defaults for the keys its file leaves out."""
    from transformers import CLIPTextConfig

    stored = component.config()
    try:
        config: dict[str, Any] = CLIPTextConfig.from_dict(stored).to_dict()
    except Exception as error:  # transformers' own validation errors
        raise CheckpointError(f"text_encoder: the config is not valid: {first_line(error)}") from error
    if config.get("use_attention_mask"):
        raise CheckpointError("text_encoder: use_attention_mask is not supported")
    return config


def _with_defaults(component: Component) -> dict[str, Any]:
    """A diffusers config with diffusers' own defaults for the keys its file leaves out."""
    import diffusers

    signature = inspect.signature(getattr(diffusers, component.class_name).__init__)
    config = component.config()
    return {name: config.get(name, parameter.default) for name, parameter in signature.parameters.items()}


def _vae(component: Component) -> VaeSpec:
    config = _with_defaults(component)
    for key in ("latents_mean", "latents_std"):
        if config[key] is not None:
            raise CheckpointError(f"vae: {key} is not supported")
    if (config["in_channels"], config["out_channels"]) != (3, 3):
        raise CheckpointError("vae: in_channels and out_channels must be 3")
    return VaeSpec(
        factor=2 ** (len(config["block_out_channels"]) - 1),
        latent_channels=config["latent_channels"],
        scaling_factor=float(config["scaling_factor"]),
        shift_factor=float(config["shift_factor"] or 0.0),
    )


def _check_unet(config: Mapping[str, Any], vae: VaeSpec, text_hidden: int) -> None:
    for key in _UNSERVED_UNET_KEYS:
        if config[key] is not None:
            raise CheckpointError(f"unet: {key} is {config[key]!r}, which is not supported")
    if config["attention_type"] != "default":
        raise CheckpointError(f"unet: attention_type is {config['attention_type']!r}, which is not supported")
    plain, inpainting = vae.latent_channels, 2 * vae.latent_channels + 1
    if config["in_channels"] not in (plain, inpainting):
        raise CheckpointError(f"unet: in_channels is {config['in_channels']}; supported are {plain} and {inpainting}")
    if config["out_channels"] != plain:
        raise CheckpointError(f"unet: out_channels is {config['out_channels']}, but the vae has {plain} channels")
    if config["cross_attention_dim"] != text_hidden:
        found = config["cross_attention_dim"]
        raise CheckpointError(f"unet: cross_attention_dim is {found}, but the text encoder's hidden_size {text_hidden}")


def _latent_size(unet: Mapping[str, Any]) -> int:
    size = unet["sample_size"]
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise CheckpointError(f"unet: sample_size is {size!r}; it must be one number")
    return size


def _check_scheduler(config: Mapping[str, Any]) -> None:
    for key, supported, default in (
        ("prediction_type", _PREDICTION_TYPES, "epsilon"),
        ("beta_schedule", _BETA_SCHEDULES, "linear"),
        ("thresholding", (False,), False),
    ):
        if config.get(key, default) not in supported:
            raise CheckpointError(f"scheduler: {key} is {config[key]!r}; supported: {', '.join(map(str, supported))}")


def _networks(
    parts: Mapping[str, Component],
    weights: Mapping[str, Weights],
    in_channels: int,
    vae: VaeSpec,
    text: Mapping[str, Any],
    max_length: int,
    embeddings: Sequence[Embedding],
) -> tuple[Network, ...]:
    def load(name: str, module: type[NetworkModule]) -> NetworkModule:
        model = load_model(parts[name], weights[name])
        return module(extend(model, embeddings) if name == "text_encoder" else model)

    channels, hidden = vae.latent_channels, text["hidden_size"]
    tokens = text["vocab_size"] + sum(len(embedding.vectors) for embedding in embeddings)
    image = TensorSpec("float32", ("batch", 3, "height", "width"))
    return (
        Network(
            "text_encoder",
            load=partial(load, "text_encoder", TextEncoder),
            inputs={
                "input_ids": TensorSpec("int64", ("batch", max_length)),
                "clip_skip": TensorSpec("int64", ("batch",)),
            },
            outputs={"prompt_embeds": TensorSpec("float32", ("batch", max_length, hidden))},
            draws={
                "input_ids": below(tokens),
                "clip_skip": below(text["num_hidden_layers"]),
            },
            cases=latent_cases(1),
        ),
        Network(
            "unet",
            load=partial(load, "unet", UNet),
            inputs={
                "sample": TensorSpec("float32", ("batch", in_channels, "height", "width")),
                "timestep": TensorSpec("float32", ("batch",)),
                "encoder_hidden_states": TensorSpec("float32", ("batch", "tokens", hidden)),
            },
            outputs={"noise_pred": TensorSpec("float32", ("batch", channels, "height", "width"))},
            draws={"sample": normal(), "timestep": uniform(0, 1000), "encoder_hidden_states": normal()},
            cases=latent_cases(1, max_length),
        ),
        Network(
            "vae_encoder",
            load=partial(load, "vae", VaeEncoder),
            inputs={"sample": image},
            outputs={"moments": TensorSpec("float32", ("batch", 2 * channels, "latent_height", "latent_width"))},
            draws={"sample": uniform(-1, 1)},
            cases=latent_cases(vae.factor),
        ),
        Network(
            "vae_decoder",
            load=partial(load, "vae", VaeDecoder),
            inputs={"latents": TensorSpec("float32", ("batch", channels, "latent_height", "latent_width"))},
            outputs={"image": image},
            draws={"latents": normal(1 / vae.scaling_factor)},
            cases=latent_cases(vae.factor),
        ),
    )
