"""DDIM with eta 0 (Song, Meng and Ermon, arXiv:2010.02502), and the levels it shares with PNDM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from gesso_backend.samplers.level import Level, output, sample
from gesso_backend.samplers.schedule import Schedule
from gesso_backend.samplers.table import Clip, Plan, Row, assemble


@dataclass(frozen=True, kw_only=True)
class AlphaSchedule(Schedule):
    """A schedule of whole timesteps whose levels are looked up, and whose last move goes past timestep 0."""

    timestep_spacing: str = "leading"
    set_alpha_to_one: bool = True

    def whole_timesteps(self, num_inference_steps: int) -> list[int]:
        """Timesteps to visit, falling. Raises ValueError where one has no level."""
        timesteps = [int(timestep) for timestep in self.timesteps(num_inference_steps).round()]
        if timesteps[0] >= self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps {num_inference_steps} with steps_offset {self.steps_offset} starts at timestep "
                f"{timesteps[0]}, beyond the {self.num_train_timesteps} that were trained"
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
class DDIMSchedule(AlphaSchedule):
    """diffusers' DDIMScheduler. Mind its default: a config without `clip_sample` clips, PNDM's among them."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
    }

    clip_sample: bool = True
    clip_sample_range: float = 1.0


def ddim(config: Mapping[str, object], num_inference_steps: int, begin: int) -> Plan:
    """Estimate x0 and eps, and mix them anew at the next level: equation 12."""
    schedule = DDIMSchedule.from_config(config)
    levels = schedule.levels()
    timesteps = schedule.whole_timesteps(num_inference_steps)[begin:]
    stride = schedule.num_train_timesteps // num_inference_steps
    rows = []
    for timestep in timesteps:
        there = levels.towards(timestep - stride)
        x0, eps = levels.at(timestep).estimates(schedule.prediction_type, sample(), output())
        if schedule.clip_sample:  # x0 alone: diffusers leaves the eps that goes with it as it was
            clip = Clip(schedule.clip_sample_range, there.signal)
            rows.append(Row(timestep=timestep, x_next=there.sigma * eps, x0=x0, clip=clip))
        else:
            rows.append(Row(timestep=timestep, x_next=there.mix(x0, eps), x0=x0))
    return assemble(rows, [levels.at(timestep) for timestep in timesteps])
