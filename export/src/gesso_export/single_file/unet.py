"""The UNet of Stable Diffusion 1, 2 and XL in the original layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Part, Shapes, Tensors, count

UNET = "model.diffusion_model."
FIRST = "input_blocks.0.0.weight"  # [channels, 4 or 9, 3, 3]
_HEAD = 64  # channels of one attention head where projections are linear
_CLIP_HEADS = 8  # attention heads of the first UNets, whatever the width
_CONTEXT = "transformer_blocks.0.attn2.to_k.weight"


def unet(shapes: Shapes, sample_size: int, additions: Mapping[str, Any] | None = None) -> Part:
    """additions: to the config, where it has more inputs. Levels end where a block only downsamples."""
    in_channels = shapes[FIRST][1]
    if in_channels not in (4, 9):
        raise CheckpointError(f"the UNet takes {in_channels} channels; supported are 4 and 9 (inpainting)")
    channels: list[int] = []
    depths: list[int] = []  # transformer layers in an attention block of each level; 0: no attention
    layers = 0
    level = 0
    for block in range(1, count(shapes, "input_blocks.")):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            level += 1
            continue
        if level == len(channels):
            channels.append(shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0])
            depths.append(_depth(shapes, f"input_blocks.{block}"))
        layers += level == 0
    _check_depths(shapes, depths, layers)
    attended = next(key for key in shapes if key.endswith(_CONTEXT))
    linear = len(shapes[attended.replace(_CONTEXT, "proj_in.weight")]) == 2
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": shapes["out.2.weight"][0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "cross_attention_dim": shapes[attended][1],
        # What diffusers calls so is the number of heads.
        "attention_head_dim": [max(width // _HEAD, 1) for width in channels] if linear else _CLIP_HEADS,
        "use_linear_projection": linear,
        **(additions or {}),
    }

    def convert(tensors: Tensors) -> Tensors:
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        converted: Tensors = convert_ldm_unet_checkpoint({UNET + key: tensors[key] for key in tensors}, config)
        return converted

    return Part("unet", "diffusers", "UNet2DConditionModel", UNET, config, convert)


def _depth(shapes: Shapes, block: str) -> int:
    return count(shapes, f"{block}.1.transformer_blocks.")


def _check_depths(shapes: Shapes, depths: list[int], layers: int) -> None:
    """Raises CheckpointError when a block has not the depth of its level, as distilled UNets have it."""
    blocks = {f"output_blocks.{i}": depths[-1 - i // (layers + 1)] for i in range(count(shapes, "output_blocks."))}
    for i in range(count(shapes, "input_blocks.")):
        level, within = divmod(i - 1, layers + 1)
        if within < layers and i > 0:
            blocks[f"input_blocks.{i}"] = depths[level]
    if depths[-1]:
        blocks["middle_block"] = depths[-1]
    for block, depth in blocks.items():
        found = _depth(shapes, block)
        if found != depth:
            raise CheckpointError(
                f"the UNet's {block} has {found} transformer layers, others of its level {depth}: a distilled model "
                "(SSD-1B and the like), which is not supported"
            )
