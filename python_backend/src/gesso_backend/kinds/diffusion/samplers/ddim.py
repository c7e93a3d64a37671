"""DDIM (Song, Meng and Ermon, arXiv:2010.02502), and the levels that samplers of whole timesteps share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, SamplerArguments
from gesso_backend.kinds.diffusion.samplers.config import Config
from gesso_backend.kinds.diffusion.samplers.level import Level, Linear, output, sample
from gesso_backend.kinds.diffusion.samplers.schedule import Schedule
from gesso_backend.kinds.diffusion.samplers.table import Clip, Row, Table, assemble


@dataclass(frozen=True, kw_only=True)
class AlphaSchedule(Schedule):
    """A schedule of whole timesteps whose levels are looked up, and whose last move goes past timestep 0."""

    timestep_spacing: str = "leading"
    set_alpha_to_one: bool = True

    def whole_timesteps(self, arguments: SamplerArguments) -> list[int]:
        """Timesteps to visit, falling. Raises InvalidSteps where one has no level."""
        if arguments.timesteps is not None:
            return self.given_timesteps(arguments.timesteps)
        timesteps = [int(timestep) for timestep in self.timesteps(arguments.num_inference_steps).round()]
        if timesteps[0] >= self.num_train_timesteps:
            raise InvalidSteps(
                "num_inference_steps",
                f"{arguments.num_inference_steps} with steps_offset {self.steps_offset} starts at timestep "
                f"{timesteps[0]}, beyond the {self.num_train_timesteps} that were trained",
            )
        return timesteps

    def levels(self) -> "Levels":
        """The levels of all training timesteps."""
        alphas = [float(alpha) for alpha in self.alphas_cumprod()]
        return Levels(alphas, final=1.0 if self.set_alpha_to_one else alphas[0])


@dataclass(frozen=True)
class Levels:
    """Levels by timestep. Timestep -1 of trailing spacing is read from the end of the table, as torch reads it."""

    alphas: list[float]
    final: float

    def at(self, timestep: int) -> Level:
        """The level that a visited timestep has."""
        return Level.from_alpha_cumprod(self.alphas[timestep])

    def towards(self, timestep: int) -> Level:
        """The level of a timestep that is moved to; below 0 it is the final one."""
        return Level.from_alpha_cumprod(self.alphas[timestep] if timestep >= 0 else self.final)


@dataclass(frozen=True, kw_only=True)
class Clipping(Config):
    """The keys by which a scheduler clips its estimate of the clean image."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def plus_x0(self, x_next: Linear, x0: Linear, weight: float) -> tuple[Linear, Clip | None]:
        """`x_next + weight * x0`; where x0 is clipped, `x_next` alone and the clip that adds the rest."""
        if self.clip_sample:
            return x_next, Clip(self.clip_sample_range, weight)
        return x_next + weight * x0, None


@dataclass(frozen=True, kw_only=True)
class DDIMSchedule(AlphaSchedule, Clipping):
    """diffusers' DDIMScheduler. Mind its default: a config without `clip_sample` clips, PNDM's among them."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
    }


def ddim(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Estimate x0 and eps, and mix them anew at the next level: equation 12, with `eta` of DDPM's noise."""
    schedule = DDIMSchedule.from_config(config)
    levels = schedule.levels()
    timesteps = schedule.whole_timesteps(arguments)[arguments.begin :]
    stride = schedule.num_train_timesteps // arguments.num_inference_steps
    rows = []
    for timestep in timesteps:
        here, there = levels.at(timestep), levels.towards(timestep - stride)
        x0, eps = here.estimates(schedule.prediction_type, sample(), output())
        fresh = arguments.eta * posterior_deviation(here, there) if arguments.eta else 0.0
        remaining = math.sqrt(max(0.0, there.sigma**2 - fresh**2))
        # Of x0 alone: diffusers leaves the eps that goes with it as it was.
        x_next, clip = schedule.plus_x0(remaining * eps, x0, there.signal)
        rows.append(Row(timestep=timestep, x_next=x_next, x0=x0, clip=clip, noise=fresh if arguments.eta else None))
    return assemble(rows, [levels.at(timestep) for timestep in timesteps])


def posterior_deviation(here: Level, there: Level) -> float:
    """The standard deviation of q(x_there | x_here, x0): equation 7 of arXiv:2006.11239, and 16 of DDIM's."""
    step_beta = 1 - (here.signal / there.signal) ** 2
    return math.sqrt(max(0.0, (there.sigma / here.sigma) ** 2 * step_beta))
