"""Samplers as tables: `plan` writes the rows, `advance` applies one. See `table` for the contract.

Each sampler equals its diffusers class, made with `from_config` from the checkpoint's config, whatever class that
config is of. To add one: write its rows in a file of its own and name it in `SAMPLERS`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from gesso_backend.samplers.ddim import ddim
from gesso_backend.samplers.dpmpp import dpmpp_2m, dpmpp_2m_karras
from gesso_backend.samplers.euler import euler, euler_ancestral
from gesso_backend.samplers.pndm import pndm
from gesso_backend.samplers.schedule import UnsupportedScheduler
from gesso_backend.samplers.table import Clip, Plan, Step, advance, estimate_x0

__all__ = ["SAMPLERS", "Clip", "Plan", "Step", "UnsupportedScheduler", "advance", "estimate_x0", "plan"]

# By name: (scheduler config, num_inference_steps, first step to run) -> the plan from there on.
SAMPLERS: Mapping[str, Callable[[Mapping[str, object], int, int], Plan]] = MappingProxyType(
    {
        "ddim": ddim,
        "pndm": pndm,
        "euler": euler,
        "euler_ancestral": euler_ancestral,
        "dpmpp_2m": dpmpp_2m,
        "dpmpp_2m_karras": dpmpp_2m_karras,
    }
)


def plan(name: str, config: Mapping[str, object], num_inference_steps: int, strength: float = 1.0) -> Plan:
    """The table of sampler `name` for a checkpoint's raw scheduler config.

    `strength` in (0, 1] is the share of the steps that is run, the last ones, as the diffusers pipelines slice them.
    PNDM runs a step more than it is asked for, or nine with its Runge-Kutta warm-up, as in diffusers.

    Raises ValueError for an unknown name, a number of steps that cannot be spaced and a strength that leaves no step,
    and UnsupportedScheduler (a ValueError too), naming the key, for a config that is not served.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; there are {', '.join(SAMPLERS)}")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps {num_inference_steps} is not at least 1")
    begin = num_inference_steps - min(int(num_inference_steps * strength), num_inference_steps)
    if begin >= num_inference_steps:
        raise ValueError(f"strength {strength} of {num_inference_steps} steps leaves no step")
    try:
        with np.errstate(divide="raise", invalid="raise"):
            return SAMPLERS[name](config, num_inference_steps, begin)
    except ArithmeticError as error:
        # For one, DDIM at a signal of 0: noise says nothing of the image there, and diffusers goes on with NaN.
        why = f"divides by zero with {name} and {num_inference_steps} steps"
        prediction_type = config.get("prediction_type", "epsilon")
        raise UnsupportedScheduler.because("prediction_type", prediction_type, why) from error
