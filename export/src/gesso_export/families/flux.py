"""FLUX.1 dev, schnell and Fill: which checkpoints belong to it, and its five networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gesso_export.bundle.manifest import Parameter, Scalar, SchedulerSpec, SizeSpec
from gesso_export.bundle.parameters import (
    FLOW_SAMPLERS,
    common_parameters,
    flow_parameters,
    guidance,
    max_pixels,
    negative_prompt,
    second_prompts,
)
from gesso_export.bundle.tensor import TOKENS, floats, ids, latents
from gesso_export.checkpoint.checkpoint import Checkpoint
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.checkpoint.tokenizer import TokenizerSource
from gesso_export.errors import CheckpointError
from gesso_export.families import parts
from gesso_export.families.model import Model
from gesso_export.networks.clip import SummaryTextEncoder
from gesso_export.networks.flux_transformer import FluxTransformer
from gesso_export.networks.network import Network, Role
from gesso_export.networks.t5 import T5TextEncoder
from gesso_export.proof.probes import below, latent_cases, normal, uniform

PIPELINES = ("FluxFillPipeline", "FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")

_CLASSES: parts.Classes = {
    "transformer": ("diffusers", ("FluxTransformer2DModel",)),
    "vae": parts.VAES,
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("T5EncoderModel",)),
    "tokenizer": parts.CLIP_TOKENIZERS,
    "tokenizer_2": ("transformers", ("T5TokenizerFast", "T5Tokenizer")),
    "scheduler": ("diffusers", ("FlowMatchEulerDiscreteScheduler",)),
}
_LEFT_OUT = ("feature_extractor", "image_encoder")
_NATIVE = 1024  # pixels; no config says it
_PACK = 2  # latents a token is wide and high
_T5_TOKENS = 512
_SCHNELL_TOKENS = 256


def describe(checkpoint: Checkpoint, embeddings: Sequence[Embedding] = ()) -> Model:
    if embeddings:
        raise CheckpointError("textual inversions of FLUX are not supported")
    found = parts.components(checkpoint, _CLASSES, _LEFT_OUT)
    clip, t5 = parts.text_config(found["text_encoder"]), parts.t5_config(found["text_encoder_2"])
    transformer, vae = parts.with_defaults(found["transformer"]), parts.vae_spec(found["vae"])
    channels = _channels(transformer, vae.latent_channels, vae.factor)
    for key, width in (("joint_attention_dim", t5["d_model"]), ("pooled_projection_dim", clip["hidden_size"])):
        if transformer[key] != width:
            raise CheckpointError(f"transformer: {key} is {transformer[key]}, but its text encoder's width {width}")
    scheduler = found["scheduler"].config()
    parts.check_flow_scheduler(scheduler)
    guided = bool(transformer["guidance_embeds"])
    fill = channels != vae.latent_channels
    size = SizeSpec(native=_NATIVE, multiple=vae.factor * _PACK, max_pixels=max_pixels(_NATIVE))
    clip_length = parts.max_tokens(found["tokenizer"], clip["max_position_embeddings"])
    # Nothing in a config tells schnell from dev but that it has no guidance.
    t5_length = min(parts.max_tokens(found["tokenizer_2"], _T5_TOKENS), _T5_TOKENS if guided else _SCHNELL_TOKENS)
    transformer_inputs = {
        "sample": latents(channels),
        "timestep": floats(),
        "encoder_hidden_states": floats(TOKENS, t5["d_model"]),
        "pooled_projections": floats(clip["hidden_size"]),
    }
    if guided:
        transformer_inputs["guidance"] = floats()
    networks = (
        Network(
            "text_encoder",
            found["text_encoder"],
            SummaryTextEncoder,
            inputs={"input_ids": ids(clip_length)},
            outputs={"text_embeds": floats(clip["hidden_size"])},
            draws={"input_ids": below(clip["vocab_size"])},
            cases=latent_cases(1),
            role=Role.TEXT_ENCODER,
        ),
        Network(
            "text_encoder_2",
            found["text_encoder_2"],
            T5TextEncoder,
            inputs={"input_ids": ids(TOKENS)},
            outputs={"prompt_embeds": floats(TOKENS, t5["d_model"])},
            draws={"input_ids": below(t5["vocab_size"])},
            cases=latent_cases(1, 32),
            role=Role.TEXT_ENCODER,
        ),
        Network(
            "transformer",
            found["transformer"],
            FluxTransformer,
            inputs=transformer_inputs,
            outputs={"noise_pred": latents(vae.latent_channels)},
            draws={
                "sample": normal(),
                "timestep": uniform(0, 1000),
                "encoder_hidden_states": normal(),
                "pooled_projections": normal(),
                "guidance": uniform(1, 30),
            },
            cases=latent_cases(1, 32, multiple=_PACK),
            role=Role.DENOISER,
        ),
        *parts.vae_networks(found["vae"], vae, may_upcast=True),
    )
    steps = 50 if fill else 28 if guided else 4
    return Model(
        family="flux",
        networks=networks,
        native_inpainting=fill,
        tokenizers={
            "text_encoder": TokenizerSource(
                found["tokenizer"], clip_length, clip["vocab_size"], end=clip["eos_token_id"]
            ),
            "text_encoder_2": TokenizerSource(
                found["tokenizer_2"], t5_length, t5["vocab_size"], end=t5["eos_token_id"]
            ),
        },
        scheduler=SchedulerSpec(scheduler),
        vae=vae,
        size=size,
        parameters={
            **common_parameters(size, "flow_euler", FLOW_SAMPLERS, steps=steps),
            **negative_prompt(),
            **second_prompts(),
            **({"guidance_scale": guidance(30.0 if fill else 3.5)} if guided else {}),
            "true_cfg_scale": guidance(1.0),
            "max_sequence_length": Parameter("int", default=t5_length, minimum=1, maximum=t5_length),
            **flow_parameters(),
        },
        task_defaults=_task_defaults(fill, guided),
    )


def _task_defaults(fill: bool, guided: bool) -> dict[str, dict[str, Scalar]]:
    """As diffusers' pipelines have them."""
    if fill:
        return {"image_to_image": {"strength": 0.6}}
    scale: dict[str, Scalar] = {"guidance_scale": 7.0} if guided else {}
    return {"inpaint": {"strength": 0.6, **scale}, "image_to_image": {"strength": 0.6, **scale}}


def _channels(transformer: Mapping[str, Any], latents: int, factor: int) -> int:
    """Channels of the unpacked input: the latents, and for Fill the masked picture's and the mask's pixels."""
    packed = transformer["in_channels"]
    if transformer["patch_size"] != 1 or packed % _PACK**2:
        raise CheckpointError(f"transformer: in_channels is {packed}, patch_size {transformer['patch_size']}")
    out = (transformer["out_channels"] or packed) // _PACK**2
    parts.check_channels("transformer", packed // _PACK**2, out, latents, 2 * latents + factor**2)
    return int(packed // _PACK**2)
