"""DDPM's ancestral sampling (Ho, Jain and Abbeel, arXiv:2006.11239)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gesso_backend.kinds.diffusion.samplers.arguments import SamplerArguments
from gesso_backend.kinds.diffusion.samplers.ddim import AlphaSchedule, Clipping, posterior_deviation
from gesso_backend.kinds.diffusion.samplers.level import CLEAN, Level, output, sample
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble

_LOWEST_VARIANCE = 1e-20  # diffusers' floor


@dataclass(frozen=True, kw_only=True)
class DDPMSchedule(AlphaSchedule, Clipping):
    """diffusers' DDPMScheduler, which clips unless the config says not to."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
        "variance_type": ("fixed_small", "fixed_small_log", "fixed_large"),
    }

    variance_type: str = "fixed_small"


def ddpm(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """The mean of q(x_there | x_here, x0), equation 7, and noise; the last move is to the clean image."""
    schedule = DDPMSchedule.from_config(config)
    alphas = schedule.levels()
    timesteps = schedule.whole_timesteps(arguments)[arguments.begin :]
    levels = [alphas.at(timestep) for timestep in timesteps]
    rows = []
    for i, timestep in enumerate(timesteps):
        here = levels[i]
        there = levels[i + 1] if i + 1 < len(timesteps) and timesteps[i + 1] >= 0 else CLEAN
        step_beta = 1 - (here.signal / there.signal) ** 2
        x0, _ = here.estimates(schedule.prediction_type, sample(), output())
        of_x0 = there.signal * step_beta / here.sigma**2
        x_next = here.signal / there.signal * (there.sigma / here.sigma) ** 2 * sample()
        x_next, clip = schedule.plus_x0(x_next, x0, of_x0)
        noise = _deviation(schedule, here, there, step_beta) if timestep > 0 else None
        rows.append(Row(timestep=timestep, x_next=x_next, x0=x0, clip=clip, noise=noise))
    return assemble(rows, levels)


def _deviation(schedule: DDPMSchedule, here: Level, there: Level, step_beta: float) -> float:
    if schedule.variance_type == "fixed_large":
        return math.sqrt(step_beta)
    return max(posterior_deviation(here, there), math.sqrt(_LOWEST_VARIANCE))
