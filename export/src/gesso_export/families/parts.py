"""What the families share: the checks and networks of parts that several have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gesso_export.bundle.manifest import VaeSpec
from gesso_export.bundle.tensor import latents, pixels
from gesso_export.checkpoint import bounds
from gesso_export.checkpoint.checkpoint import Checkpoint, Component
from gesso_export.checkpoint.embeddings import Embedding, extend
from gesso_export.errors import CheckpointError, first_line
from gesso_export.networks.module import NetworkModule
from gesso_export.networks.network import Network, Role
from gesso_export.networks.vae import VaeDecoder, VaeEncoder
from gesso_export.proof.probes import latent_cases, normal, uniform

# Library and class names. Nothing else is ever imported or called.
Classes = Mapping[str, tuple[str, tuple[str, ...]]]

CLIP_TOKENIZERS = ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast"))
VAES = ("diffusers", ("AutoencoderKL",))

_COLOURS = 3  # channels of a picture
_SPACINGS = ("leading", "linspace", "trailing")
_PREDICTION_TYPES = ("epsilon", "v_prediction")
_BETA_START, _BETA_END = 0.0001, 0.02  # diffusers' own defaults
_STEPS = 1000
_SHIFTS = {"base": (256, 0.5), "max": (4096, 1.15)}  # of which number of tokens, and which shift
_STEEPEST = 0.01  # a token; the published line rises by 0.00017
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def components(checkpoint: Checkpoint, classes: Classes, left_out: tuple[str, ...]) -> Mapping[str, Component]:
    """The parts of a checkpoint, each of a class that is served; left_out: those that take no part in painting."""
    for name, (library, names) in classes.items():
        if name not in checkpoint.components:
            raise CheckpointError(f"the checkpoint has no {name}")
        component = checkpoint.components[name]
        if component.library != library or component.class_name not in names:
            found = f"{component.library}.{component.class_name}"
            raise CheckpointError(f"{name}: {found} is not supported; supported in {library} are {', '.join(names)}")
    for name, component in checkpoint.components.items():
        if name not in classes and name not in left_out:
            raise CheckpointError(f"component {name} ({component.class_name}) is not supported")
    return checkpoint.components


def with_defaults(component: Component) -> dict[str, Any]:
    """A diffusers config with diffusers' own defaults for the keys its file leaves out."""
    import diffusers

    signature = inspect.signature(getattr(diffusers, component.class_name).__init__)
    config = component.config()
    return {name: config.get(name, parameter.default) for name, parameter in signature.parameters.items()}


def text_config(component: Component) -> dict[str, Any]:
    """A CLIP text encoder's config with transformers' own defaults for the keys its file leaves out."""
    from transformers import CLIPTextConfig

    stored = bounds.known(component.config(), component.class_name)
    try:
        config: dict[str, Any] = CLIPTextConfig.from_dict(stored).to_dict()
    except Exception as error:  # transformers' own validation errors
        raise CheckpointError(f"{component.name}: the config is not valid: {first_line(error)}") from error
    if config.get("use_attention_mask"):
        raise CheckpointError(f"{component.name}: use_attention_mask is not supported")
    return config


def t5_config(component: Component) -> dict[str, Any]:
    """A T5 encoder's config with transformers' own defaults for the keys its file leaves out."""
    from transformers import T5Config

    try:
        config: dict[str, Any] = T5Config.from_dict(bounds.known(component.config(), component.class_name)).to_dict()
    except Exception as error:  # transformers' own validation errors
        raise CheckpointError(f"{component.name}: the config is not valid: {first_line(error)}") from error
    return config


def max_tokens(tokenizer: Component, positions: int) -> int:
    """The longest text, in tokens; positions: those that the text encoder has."""
    return int(min(tokenizer.config().get("model_max_length", positions), positions))


def vae_spec(component: Component) -> VaeSpec:
    config = with_defaults(component)
    for key in ("latents_mean", "latents_std"):
        if config[key] is not None:
            raise CheckpointError(f"vae: {key} is not supported")
    if (config["in_channels"], config["out_channels"]) != (_COLOURS, _COLOURS):
        raise CheckpointError(f"vae: in_channels and out_channels must be {_COLOURS}")
    return VaeSpec(
        factor=2 ** (len(config["block_out_channels"]) - 1),
        latent_channels=config["latent_channels"],
        scaling_factor=float(config["scaling_factor"]),
        shift_factor=float(config["shift_factor"] or 0.0),
    )


def check_channels(network: str, in_channels: int, out_channels: int, plain: int, inpainting: int) -> None:
    if in_channels not in (plain, inpainting):
        raise CheckpointError(f"{network}: in_channels is {in_channels}; supported are {plain} and {inpainting}")
    if out_channels != plain:
        raise CheckpointError(f"{network}: out_channels is {out_channels}, but the vae has {plain} channels")


def latent_size(unet: Mapping[str, Any]) -> int:
    size = unet["sample_size"]
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise CheckpointError(f"unet: sample_size is {size!r}; it must be one number")
    return size


def check_diffusion_scheduler(config: Mapping[str, Any]) -> None:
    for key, supported, default in (
        ("prediction_type", _PREDICTION_TYPES, "epsilon"),
        ("beta_schedule", _BETA_SCHEDULES, "linear"),
        ("timestep_spacing", _SPACINGS, "leading"),
        ("thresholding", (False, None), False),
    ):
        if config.get(key, default) not in supported:
            raise CheckpointError(f"scheduler: {key} is {config[key]!r}; supported: {', '.join(map(str, supported))}")
    if config.get("beta_start", _BETA_START) > config.get("beta_end", _BETA_END):
        raise CheckpointError("scheduler: beta_start is above beta_end")
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", _STEPS)
    if betas and len(betas) != steps:
        raise CheckpointError(f"scheduler: trained_betas has {len(betas)} betas, but num_train_timesteps is {steps}")


def check_flow_scheduler(config: Mapping[str, Any]) -> None:
    """FLUX's shift grows with the picture, on a line through two of its lengths in tokens."""
    (low, start), (high, end) = (
        (config.get(f"{which}_image_seq_len", tokens), config.get(f"{which}_shift", shift))
        for which, (tokens, shift) in _SHIFTS.items()
    )
    if config.get("use_dynamic_shifting") and not (low < high and 0 <= (end - start) / (high - low) <= _STEEPEST):
        ends = f"base_shift {start} at base_image_seq_len {low}, max_shift {end} at max_image_seq_len {high}"
        raise CheckpointError(f"scheduler: {ends} is no line that a shift can follow")


def with_embeddings(module: type[NetworkModule], embeddings: Sequence[Embedding]) -> Callable[[Any], NetworkModule]:
    """How to wrap a text encoder after adding the vectors to it."""
    return lambda text_encoder: module(extend(text_encoder, embeddings))


def vae_networks(component: Component, vae: VaeSpec, *, may_upcast: bool) -> tuple[Network, Network]:
    """may_upcast: whether the family's pipelines heed `force_upcast`, of a VAE that overflows in half precision."""
    fp32_only = may_upcast and bool(with_defaults(component)["force_upcast"])
    channels = vae.latent_channels
    return (
        Network(
            "vae_encoder",
            component,
            VaeEncoder,
            inputs={"sample": pixels(_COLOURS)},
            outputs={"moments": latents(2 * channels)},
            draws={"sample": uniform(-1, 1)},
            cases=latent_cases(vae.factor),
            role=Role.IMAGE_ENCODER,
            fp32_only=fp32_only,
        ),
        Network(
            "vae_decoder",
            component,
            VaeDecoder,
            inputs={"latents": latents(channels)},
            outputs={"image": pixels(_COLOURS)},
            draws={"latents": normal(1 / vae.scaling_factor)},
            cases=latent_cases(vae.factor),
            role=Role.IMAGE_DECODER,
            fp32_only=fp32_only,
        ),
    )
