"""Whether config and weights are of the same network, by the names and shapes of its tensors alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from gesso_export.checkpoint import bounds
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.weights import Weights, check_not_quantised
from gesso_export.errors import CheckpointError, first_line
from gesso_export.progress import quiet

Shapes = Mapping[str, tuple[int, ...]]

_LAYERS = ("num_hidden_layers", "num_layers", "num_single_layers")
_MOST_BLOCKS = 512  # a network of so many is described within seconds
_SLACK = 2  # times as many weights as are stored: more is no rounding, no tied table and no tensor that was lost
# Modules that a config may switch off.
_MODULES = ("down_blocks", "mid_block", "up_blocks", "encoder", "quant_conv", "post_quant_conv")
# What may be inside of a network without being part of it.
_HARMLESS = ("lora", "position_ids", "encoder.embed_tokens.weight")
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_CLIP = "text_model."  # which some versions of transformers write before every name
# What a network has besides its own modules when it takes an input that the config does not count, and what that is.
_INPUTS = {
    "cond_proj.": "the guidance scale, as LCM's UNets do (time_cond_proj_dim)",
    "guidance_embedder.": "the guidance scale (guidance_embeds)",
    "add_embedding.": "other conditions (addition_embed_type)",
    "class_embedding.": "a class (class_embed_type)",
    "encoder_hid_proj.": "a projected condition (encoder_hid_dim)",
    "to_k_ip.": "a picture (IP-Adapter)",
    "motion_modules.": "other frames (AnimateDiff)",
    ".fuser.": "boxes (GLIGEN)",
}


def check(component: Component, weights: Weights) -> list[str]:
    """The tensors that the network has no place for, and that are left out as the libraries leave them out.

    Raises CheckpointError when they are of its own modules or take a further input, for a config that describes many
    more weights than there are, and for quantised weights.
    """
    found = weights.shapes()
    check_not_quantised(found)
    return compare(component, found)


def compare(component: Component, found: Shapes, whole: bool = False) -> list[str]:
    """The same of tensors of these names. whole: and raise for one that is not there or has another shape."""
    config = component.config()
    if (layers := _layers(config)) > min(len(found), _MOST_BLOCKS):  # describing it may take forever
        most = f"there are {len(found)} tensors, and no model has more than {_MOST_BLOCKS} layers"
        raise CheckpointError(f"{component.name}: the config counts {layers} layers; {most}")
    expected = _expected(component, config)
    _check_size(component, expected, found)
    found = {name.removeprefix(_CLIP): shape for name, shape in found.items()}
    left_out = sorted(name for name in found if _renamed(name) not in expected)
    modules = {name.partition(".")[0] for name in expected}.union(_MODULES)
    for name in left_out:
        for part, what in _INPUTS.items():
            if part in name:
                raise CheckpointError(f"{component.name}: the weights have {name}: the network takes {what}")
        if name.partition(".")[0] in modules and not any(word in name for word in _HARMLESS):
            raise CheckpointError(f"{component.name}: the weights have {name}, which the config does not count")
    if whole:
        for name, shape in expected.items():
            if name not in found:
                raise CheckpointError(f"{component.name}: the weights have no tensor {name}")
            if found[name] != shape:
                raise CheckpointError(f"{component.name}: {name} is {list(found[name])}, not {list(shape)}")
    return left_out


def _layers(config: Mapping[str, Any]) -> int:
    """At least as many layers as a network of this config has."""
    blocks: int = len(config.get("block_out_channels", [1]))
    for key in ("layers_per_block", "transformer_layers_per_block"):
        blocks *= _largest(config.get(key, 1))
    return max(int(blocks), *(int(config.get(key, 0)) for key in _LAYERS))


def _largest(counts: Any) -> int:
    return max(map(_largest, counts)) if isinstance(counts, list | tuple) else int(counts)


def _expected(component: Component, config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of the network that the config describes."""
    import diffusers
    import transformers

    settings = bounds.known(config, component.class_name)
    try:
        with torch.device("meta"), quiet():
            if component.library == "diffusers":
                model = getattr(diffusers, component.class_name).from_config(settings)
            else:
                kind = getattr(transformers, component.class_name)
                model = kind(kind.config_class.from_dict(settings))
    except Exception as error:  # what the libraries raise for a config that makes no network is of every kind
        raise CheckpointError(f"{component.name}: the config makes no network: {first_line(error)}") from error
    return {
        name.removeprefix(_CLIP): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != "encoder.embed_tokens.weight"  # T5's table, which is named twice
    }


def _check_size(component: Component, expected: Shapes, found: Shapes) -> None:
    """The libraries would make room for what is missing before they say so."""
    described, stored = (sum(math.prod(shape) for shape in shapes.values()) for shapes in (expected, found))
    if described > _SLACK * stored:
        raise CheckpointError(
            f"{component.name}: the config describes {described:,} weights, but there are {stored:,}: parts are missing"
        )


def _renamed(name: str) -> str:
    """As the library calls what older versions of it called so."""
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name
