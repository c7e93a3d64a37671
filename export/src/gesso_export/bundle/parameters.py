"""Defaults and bounds of the request parameters that depend on the model, and the sampler of each scheduler class.

Those that are the same for every model (`seed`, `mask_feather` and the like) are the server's own, and in no bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.bundle.manifest import Parameter, SizeSpec
from gesso_export.errors import CheckpointError

# What each algorithm may be spaced by, besides its plain form; gesso_backend.kinds.diffusion.samplers names them alike.
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

FLOW_SAMPLERS = ("flow_euler", *(f"flow_euler_{spacing}" for spacing in _SIGMA_SPACINGS), "flow_heun")

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

_LARGEST_SIDE = 2048
_MEGAPIXEL = 1024 * 1024
_STEPS = 200
_TEXT_BYTES = 16384
_SIZE_CONDITION = 16384
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


def common_parameters(size: SizeSpec, sampler: str, samplers: tuple[str, ...], steps: int) -> dict[str, Parameter]:
    """What every diffusion model takes, with bounds of its own."""
    side = Parameter(
        "int",
        default=size.native,
        minimum=size.multiple,
        maximum=max(_LARGEST_SIDE // size.multiple * size.multiple, size.native),
    )
    return {
        "prompt": Parameter("string", max_bytes=_TEXT_BYTES),
        "height": side,
        "width": side,
        "num_inference_steps": Parameter("int", default=steps, minimum=1, maximum=_STEPS),
        "strength": Parameter("float", default=1.0, minimum=0.0, maximum=1.0),
        "scheduler": Parameter("string", default=sampler, choices=samplers),
    }


def negative_prompt() -> dict[str, Parameter]:
    return {"negative_prompt": Parameter("string", default="", max_bytes=_TEXT_BYTES)}


def clip_parameters(max_clip_skip: int) -> dict[str, Parameter]:
    """What can be said of prompts that CLIP reads token by token."""
    return {
        **negative_prompt(),
        "negative_prompt_strength": Parameter("float", default=1.0, minimum=0.0, maximum=2.0),
        "prompt_weighting": Parameter("bool", default=False),
        "long_prompt": Parameter("bool", default=True),
        "clip_skip": Parameter("int", default=0, minimum=0, maximum=max_clip_skip),
    }


def second_prompts() -> dict[str, Parameter]:
    """Prompts of a second text encoder; empty, they are the first one's."""
    text = Parameter("string", default="", max_bytes=_TEXT_BYTES)
    return {"prompt_2": text, "negative_prompt_2": text}


def guidance(scale: float) -> Parameter:
    return Parameter("float", default=scale, minimum=0.0, maximum=50.0)


def diffusion_parameters(guidance_scale: float) -> dict[str, Parameter]:
    """Guidance and steps of a model that was trained on a schedule of betas."""
    return {
        "guidance_scale": guidance(guidance_scale),
        "guidance_rescale": Parameter("float", default=0.0, minimum=0.0, maximum=1.0),
        "timestep_spacing": Parameter("string", choices=("leading", "linspace", "trailing")),
        "timesteps": Parameter("ints", minimum=0, maximum=_TIMESTEPS, max_items=_STEPS),
        "sigmas": Parameter("floats", minimum=0.0, maximum=_SIGMA, max_items=_STEPS + 1),
        "eta": Parameter("float", default=0.0, minimum=0.0, maximum=1.0),
    }


def flow_parameters() -> dict[str, Parameter]:
    """Steps of a model that was trained on straight paths."""
    return {
        "timesteps": Parameter("ints", minimum=0, maximum=_TIMESTEPS, max_items=_STEPS),
        "sigmas": Parameter("floats", minimum=0.0, maximum=1.0, max_items=_STEPS),
    }


def size_conditions() -> dict[str, Parameter]:
    """SDXL's (height, width) or (top, left) pairs; absent, they are the canvas's and its corner."""
    size = Parameter("ints", minimum=1, maximum=_SIZE_CONDITION, min_items=2, max_items=2)
    corner = Parameter("ints", minimum=0, maximum=_SIZE_CONDITION, min_items=2, max_items=2)
    own = {"original_size": size, "crops_coords_top_left": corner, "target_size": size}
    return own | {f"negative_{name}": parameter for name, parameter in own.items()}
