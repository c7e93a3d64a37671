"""What checkpoint a single file is, by its header."""

from __future__ import annotations

from gesso_export.checkpoint.claims import Claims, of_file
from gesso_export.checkpoint.weights import check_not_quantised
from gesso_export.errors import CheckpointError
from gesso_export.single_file import flux, sdxl, stable_diffusion
from gesso_export.single_file.layout import Asked, Layout, Shapes
from gesso_export.single_file.unet import FIRST, UNET

_REFINER_CHANNELS = 384
_GUIDED = "time_embed.cond_proj.weight"  # of a UNet distilled with its guidance

# What is told from the first of these tensors that a file has, when it is of no family that is served.
_OTHERS = {
    "conditioner.embedders.0.model.ln_final.weight": "the Stable Diffusion XL refiner",
    "edm_mean": "Playground 2.5",
    "edm_vpred.sigma_max": "an SDXL model of the EDM kind (CosXL)",
    "distilled_guidance_layer.in_proj.bias": "Chroma",
    "single_stream_modulation.lin.weight": "FLUX.2",
    "joint_blocks.0.context_block.attn.qkv.weight": "Stable Diffusion 3",
    "control_model.time_embed.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "emb_params": "a textual inversion (see --embedding)",
    "clip_g": "a textual inversion (see --embedding)",
    "down_blocks.0.resnets.0.conv1.weight": "a UNet in the diffusers layout, without the rest of its directory",
    "transformer_blocks.0.attn.to_q.weight": "a transformer in the diffusers layout, without the rest of its directory",
}


def detect(
    shapes: Shapes,
    prediction_type: str | None = None,
    *,
    turbo: bool = False,
    claims: Claims | None = None,
    vae: bool = False,
) -> Layout:
    """What checkpoint has tensors of these names and shapes.

    prediction_type: decides, whatever the file says. turbo: whether it is SDXL-Turbo, which no header says. claims:
    what the file says besides. vae: whether its VAE is taken from elsewhere. Raises CheckpointError naming what the
    file is, as far as it is known, when it is not served.
    """
    check_not_quantised(shapes)
    for key, what in _OTHERS.items():
        if key in shapes or UNET + key in shapes:
            raise CheckpointError(f"this file is {what}, which is not supported")
    said = Asked(prediction_type, turbo, vae, claims or of_file(shapes, {}, None))
    try:
        layout = _detect(shapes, said)
    except (KeyError, IndexError, ValueError, ArithmeticError, StopIteration) as error:
        raise CheckpointError(f"this file lacks a tensor that its kind of model has: {error}") from error
    if prediction_type is None:
        said.claims.check_family(layout.what)
    if turbo and sdxl.KEY not in shapes:
        raise CheckpointError(f"--turbo is for SDXL files; this file is {layout.what}")
    return layout


def _detect(shapes: Shapes, asked: Asked) -> Layout:
    if flux.prefix(shapes) is not None:
        if asked.prediction_type is not None:
            raise CheckpointError("--prediction-type is not for FLUX.1, which predicts a velocity")
        return flux.detect(shapes, asked)
    if UNET + FIRST not in shapes:
        raise CheckpointError(_without_unet(shapes))
    if shapes[UNET + FIRST][0] == _REFINER_CHANNELS:
        raise CheckpointError("this file is the Stable Diffusion XL refiner, which is not supported")
    if UNET + _GUIDED in shapes:
        raise CheckpointError("this file's UNet takes the guidance scale (time_embed.cond_proj, LCM), not supported")
    if sdxl.KEY in shapes:
        return sdxl.detect(shapes, asked)
    return stable_diffusion.detect(shapes, asked)


def _without_unet(shapes: Shapes) -> str:
    """What to say of a file that is no whole model: what is there."""
    if FIRST in shapes:
        return "this file is a UNet alone, without its text encoder and VAE; a whole checkpoint is needed"
    if any("lora" in key for key in shapes):
        return "this file is a LoRA, not a whole model"
    found = ", ".join(sorted({key.partition(".")[0] for key in shapes})[:8]) or "nothing"
    return f"this file has no Stable Diffusion UNet (model.diffusion_model.input_blocks...); there is {found}"
