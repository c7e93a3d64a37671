"""The VAE in the original layout, the same one in all families."""

from __future__ import annotations

from typing import Any

from gesso_export.single_file.layout import Part, Shapes, Tensors, count

VAE = "first_stage_model."


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
