"""Defaults and bounds of every request parameter, and which sampler a checkpoint's scheduler class stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.errors import CheckpointError
from gesso_export.manifest import Parameter, Scalar, SizeSpec

SAMPLERS = ("ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras")

# The sampler to start with for each scheduler class. Those that are not served share their noise levels with one that
# is: the noise levels come from the config, whose meaning is the same in all of these classes.
_SAMPLER_OF_CLASS = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "euler",
    "KDPM2DiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "KDPM2AncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "dpmpp_2m",
}
SCHEDULER_CLASSES = tuple(_SAMPLER_OF_CLASS)

TASK_DEFAULTS: dict[str, dict[str, Scalar]] = {"image_to_image": {"strength": 0.8}}

_LARGEST_SIDE = 2048
_MEGAPIXEL = 1024 * 1024


def default_sampler(scheduler_class: str, config: Mapping[str, Any]) -> str:
    """The sampler a request gets when it names none. Raises CheckpointError for a class we know nothing of."""
    if scheduler_class not in _SAMPLER_OF_CLASS:
        known = ", ".join(SCHEDULER_CLASSES)
        raise CheckpointError(f"scheduler {scheduler_class} is not supported; supported are {known}")
    sampler = _SAMPLER_OF_CLASS[scheduler_class]
    return "dpmpp_2m_karras" if sampler == "dpmpp_2m" and config.get("use_karras_sigmas") else sampler


def max_pixels(native: int) -> int:
    """The largest area a network is run at: twice the native side, and at least a megapixel."""
    return max(4 * native**2, _MEGAPIXEL)


def request_parameters(size: SizeSpec, sampler: str) -> dict[str, Parameter]:
    """What a request may say, for a model of this size with this default sampler."""
    side = Parameter(
        "int",
        default=size.native,
        minimum=size.multiple,
        maximum=max(_LARGEST_SIDE // size.multiple * size.multiple, size.native),
    )
    return {
        "prompt": Parameter("string", max_bytes=16384),
        "negative_prompt": Parameter("string", default="", max_bytes=16384),
        "height": side,
        "width": side,
        "num_inference_steps": Parameter("int", default=50, minimum=1, maximum=200),
        "guidance_scale": Parameter("float", default=7.5, minimum=0.0, maximum=50.0),
        "strength": Parameter("float", default=1.0, minimum=0.0, maximum=1.0),
        "seed": Parameter("int", minimum=0, maximum=2**63 - 1),
        "scheduler": Parameter("string", default=sampler, choices=SAMPLERS),
        "num_images_per_prompt": Parameter("int", default=1, minimum=1, maximum=8),
        "padding_mask_crop": Parameter("int", minimum=-1, maximum=4096),
        "mask_feather": Parameter("int", default=0, minimum=0, maximum=256),
        "latent_blend": Parameter("bool", default=True),
        "preview_every": Parameter("int", default=0, minimum=0, maximum=200),
    }
