"""Defaults and bounds of every request parameter, and which sampler a checkpoint's scheduler class stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.errors import CheckpointError
from gesso_export.manifest import Parameter, Scalar, SizeSpec

# What each algorithm may be spaced by, besides its plain form; gesso_backend.samplers has the same names.
_SIGMA_SPACINGS = ("karras", "exponential", "beta")
_SPACINGS: dict[str, tuple[str, ...]] = {
    "ddim": ("sgm_uniform",),
    "ddpm": ("sgm_uniform",),
    "pndm": ("sgm_uniform",),
    "euler": (*_SIGMA_SPACINGS, "sgm_uniform"),
    "euler_ancestral": ("sgm_uniform",),
    "heun": (*_SIGMA_SPACINGS, "sgm_uniform"),
    "dpmpp_2m": (*_SIGMA_SPACINGS, "sgm_uniform"),
    "dpmpp_2m_sde": (*_SIGMA_SPACINGS, "sgm_uniform"),
    "dpmpp_2s": _SIGMA_SPACINGS,
    "unipc": (*_SIGMA_SPACINGS, "sgm_uniform"),
    "lcm": (),
    "tcd": (),
}
SAMPLERS = tuple(
    name for base, spacings in _SPACINGS.items() for name in (base, *(f"{base}_{spacing}" for spacing in spacings))
)

# The sampler to start with for each scheduler class. Those that are not served share their noise levels with one that
# is: the noise levels come from the config, whose meaning is the same in all of these classes.
_SAMPLER_OF_CLASS = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler",
    "LMSDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "heun",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "KDPM2AncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
SCHEDULER_CLASSES = tuple(_SAMPLER_OF_CLASS)

TASK_DEFAULTS: dict[str, dict[str, Scalar]] = {"image_to_image": {"strength": 0.8}}

_LARGEST_SIDE = 2048
_MEGAPIXEL = 1024 * 1024
_STEPS = 200
_TIMESTEPS = 100_000  # a bound for the wire; the sampler knows how many were trained
_SIGMA = 1e6


def default_sampler(scheduler_class: str, config: Mapping[str, Any]) -> str:
    """The sampler a request gets when it names none. Raises CheckpointError for a class we know nothing of."""
    if scheduler_class not in _SAMPLER_OF_CLASS:
        known = ", ".join(SCHEDULER_CLASSES)
        raise CheckpointError(f"scheduler {scheduler_class} is not supported; supported are {known}")
    sampler = _SAMPLER_OF_CLASS[scheduler_class]
    if sampler == "dpmpp_2m" and config.get("algorithm_type") == "sde-dpmsolver++":
        sampler = "dpmpp_2m_sde"
    for spacing in _SIGMA_SPACINGS:
        if config.get(f"use_{spacing}_sigmas") and spacing in _SPACINGS[sampler]:
            return f"{sampler}_{spacing}"
    return sampler


def max_pixels(native: int) -> int:
    """The largest area a network is run at: twice the native side, and at least a megapixel."""
    return max(4 * native**2, _MEGAPIXEL)


def request_parameters(size: SizeSpec, sampler: str, text_layers: int) -> dict[str, Parameter]:
    """What a request may say, for a model of this size, default sampler and depth of the text encoder."""
    side = Parameter(
        "int",
        default=size.native,
        minimum=size.multiple,
        maximum=max(_LARGEST_SIDE // size.multiple * size.multiple, size.native),
    )
    return {
        "prompt": Parameter("string", max_bytes=16384),
        "negative_prompt": Parameter("string", default="", max_bytes=16384),
        "negative_prompt_strength": Parameter("float", default=1.0, minimum=0.0, maximum=2.0),
        "prompt_weighting": Parameter("bool", default=False),
        "long_prompt": Parameter("bool", default=True),
        "clip_skip": Parameter("int", default=0, minimum=0, maximum=text_layers - 1),
        "height": side,
        "width": side,
        "num_inference_steps": Parameter("int", default=50, minimum=1, maximum=_STEPS),
        "guidance_scale": Parameter("float", default=7.5, minimum=0.0, maximum=50.0),
        "guidance_rescale": Parameter("float", default=0.0, minimum=0.0, maximum=1.0),
        "strength": Parameter("float", default=1.0, minimum=0.0, maximum=1.0),
        "seed": Parameter("int", minimum=0, maximum=2**63 - 1),
        "scheduler": Parameter("string", default=sampler, choices=SAMPLERS),
        "timestep_spacing": Parameter("string", choices=("leading", "linspace", "trailing")),
        "timesteps": Parameter("ints", minimum=0, maximum=_TIMESTEPS, max_items=_STEPS),
        "sigmas": Parameter("floats", minimum=0.0, maximum=_SIGMA, max_items=_STEPS + 1),
        "eta": Parameter("float", default=0.0, minimum=0.0, maximum=1.0),
        "num_images_per_prompt": Parameter("int", default=1, minimum=1, maximum=8),
        "padding_mask_crop": Parameter("int", minimum=-1, maximum=4096),
        "mask_feather": Parameter("int", default=0, minimum=0, maximum=256),
        "latent_blend": Parameter("bool", default=True),
        "require_native": Parameter("bool", default=False),
        "preview_every": Parameter("int", default=0, minimum=0, maximum=200),
    }
