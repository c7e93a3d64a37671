"""LCM (Luo et al., arXiv:2310.04378) and TCD (Zheng et al., arXiv:2402.19159), for distilled models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, SamplerArguments, UnsupportedScheduler
from gesso_backend.kinds.diffusion.samplers.ddim import AlphaSchedule, Clipping
from gesso_backend.kinds.diffusion.samplers.level import CLEAN, output, sample
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble

_SIGMA_DATA = 0.5


@dataclass(frozen=True, kw_only=True)
class TCDSchedule(AlphaSchedule):
    """diffusers' TCDScheduler: timesteps are a selection of those the model was distilled on; it never clips."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
    }

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    original_inference_steps: int = 50

    def selected_timesteps(self, arguments: SamplerArguments) -> list[int]:
        """Raises InvalidSteps for more steps than there are to select from."""
        original, count = self.original_inference_steps, arguments.num_inference_steps
        if not 1 <= original <= self.num_train_timesteps:
            raise UnsupportedScheduler.because("original_inference_steps", original)
        if arguments.timesteps is not None:
            return self.given_timesteps(arguments.timesteps)
        if count > original:
            raise InvalidSteps("num_inference_steps", f"{count} is above the {original} the model was distilled on")
        stride = self.num_train_timesteps // original
        distilled = (np.arange(original, 0, -1) * stride - 1).tolist()
        return [distilled[int(i)] for i in np.floor(np.linspace(0, original, count, endpoint=False))]


@dataclass(frozen=True, kw_only=True)
class LCMSchedule(TCDSchedule, Clipping):
    """diffusers' LCMScheduler."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {**TCDSchedule.served, "thresholding": (False, None)}

    clip_sample: bool = False
    timestep_scaling: float = 10.0


def lcm(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Jump to the clean image by the consistency function, and noise it to the next level: algorithm 3."""
    schedule = LCMSchedule.from_config(config)
    alphas, timesteps = schedule.levels(), schedule.selected_timesteps(arguments)[arguments.begin :]
    levels = [alphas.at(timestep) for timestep in timesteps]
    rows = []
    for i, (timestep, here) in enumerate(zip(timesteps, levels, strict=True)):
        there = levels[i + 1] if i + 1 < len(levels) else CLEAN
        scaled = timestep * schedule.timestep_scaling
        of_x0 = scaled / (scaled**2 + _SIGMA_DATA**2) ** 0.5
        of_x = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        x0, _ = here.estimates(schedule.prediction_type, sample(), output())
        x_next, clip = schedule.plus_x0(there.signal * of_x * sample(), x0, there.signal * of_x0)
        noise = there.sigma if i + 1 < len(levels) else None
        rows.append(Row(timestep=timestep, x_next=x_next, x0=x0, clip=clip, noise=noise))
    return assemble(rows, levels)


def tcd(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Move below the next level, the further the larger `eta` (the paper's gamma), and noise it up: algorithm 4."""
    schedule = TCDSchedule.from_config(config)
    alphas, timesteps = schedule.levels(), schedule.selected_timesteps(arguments)[arguments.begin :]
    rows = []
    for i, timestep in enumerate(timesteps):
        last = i + 1 == len(timesteps)
        after = 0 if last else timesteps[i + 1]
        there, below = alphas.at(after), alphas.at(_below(after, arguments.eta))
        x0, eps = alphas.at(timestep).estimates(schedule.prediction_type, sample(), output())
        if last or not arguments.eta:
            rows.append(Row(timestep=timestep, x_next=below.mix(x0, eps), x0=x0))
        else:
            signal = there.signal / below.signal
            noise = max(0.0, 1 - signal**2) ** 0.5
            rows.append(Row(timestep=timestep, x_next=signal * below.mix(x0, eps), x0=x0, noise=noise))
    return assemble(rows, [alphas.at(timestep) for timestep in timesteps])


def _below(timestep: int, eta: float) -> int:
    """In float32, as torch multiplies a timestep."""
    return int(np.floor(np.float32(1 - eta) * np.float32(timestep)))
