"""The VAE in the original layout, the same one in all families."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.header import open_tensors
from gesso_export.errors import CheckpointError
from gesso_export.single_file.header import read as read_header
from gesso_export.single_file.layout import Part, Shapes, Tensors, count, under
from gesso_export.single_file.unpack import write_part

VAE = "first_stage_model."
_PREFIXES = (VAE, "vae.", "")
_FIRST, _OF_DIFFUSERS = "encoder.down.0.block.0.conv1.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"
_CLASS = "AutoencoderKL"


def vae(shapes: Shapes, prefix: str = VAE, **config: Any) -> Part:
    """config: what no shape says, which differs between the families."""
    levels = count(shapes, "encoder.down.")
    config = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": count(shapes, "encoder.down.0.block."),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        **config,
    }

    def convert(tensors: Tensors) -> Tensors:
        from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

        converted: Tensors = convert_ldm_vae_checkpoint(tensors, config)
        return converted

    return Part("vae", "diffusers", "AutoencoderKL", prefix, config, convert)


def read_vae(path: Path, folder: Path, config: Mapping[str, Any]) -> Component:
    """The VAE in `path`, as `find_vae`; that of a file is written to `folder`."""
    found = find_vae(path, config)
    if isinstance(found, Component):
        return found
    with open_tensors(path) as source:
        write_part(found, source, folder)
    return Component("vae", "diffusers", _CLASS, folder)


def find_vae(path: Path, config: Mapping[str, Any]) -> Component | Part:
    """The VAE in `path`: of a folder in the diffusers layout, or a part of a file in the original one.

    config: what a file does not say. Raises CheckpointError when there is none.
    """
    if path.is_dir():
        for found in (path, path / "vae"):
            if (found / "config.json").exists():
                component = Component("vae", "diffusers", _CLASS, found)
                if (name := component.config().get("_class_name", _CLASS)) != _CLASS:
                    raise CheckpointError(f"--vae {path} is of the class {name}; supported is {_CLASS}")
                return component
        raise CheckpointError(f"--vae {path} has no config.json: not a VAE of the diffusers layout")
    shapes = read_header(path).shapes
    if _OF_DIFFUSERS in shapes:
        raise CheckpointError(f"--vae {path} is in the diffusers layout, which needs its config.json: give its folder")
    prefix = next((prefix for prefix in _PREFIXES if prefix + _FIRST in shapes), None)
    if prefix is None:
        raise CheckpointError(f"--vae {path} has no VAE ({_FIRST})")
    try:
        return vae(under(shapes, prefix, "VAE"), prefix, **config)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"--vae {path} lacks a tensor that VAEs have: {error}") from error
