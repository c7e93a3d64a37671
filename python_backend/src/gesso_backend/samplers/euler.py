"""Euler and Euler ancestral, in the terms of Karras et al. (arXiv:2206.00364) and of crowsonkb/k-diffusion.

Samples are `x0 + sigma*eps`: the signal is never scaled down, so the network's input is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gesso_backend.samplers.level import Level, output, sample
from gesso_backend.samplers.schedule import Schedule, karras_sigmas, timesteps_of
from gesso_backend.samplers.table import Plan, Row, assemble


@dataclass(frozen=True, kw_only=True)
class AncestralSchedule(Schedule):
    """diffusers' EulerAncestralDiscreteScheduler."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {"prediction_type": ("epsilon", "v_prediction")}

    def grid(self, num_inference_steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Timesteps, possibly fractional, and their sigmas with the final one after them; all rounded to float32."""
        timesteps = _float32(self.timesteps(num_inference_steps))
        return timesteps, _float32(np.append(self.interpolated(timesteps), 0.0))

    def interpolated(self, timesteps: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sigmas of fractional timesteps."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas())


@dataclass(frozen=True, kw_only=True)
class EulerSchedule(AncestralSchedule):
    """diffusers' EulerDiscreteScheduler; with `use_karras_sigmas` it is Karras' own sampler without churn."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "interpolation_type": ("linear",),
        "use_exponential_sigmas": (False, None),
        "use_beta_sigmas": (False, None),
        "timestep_type": ("discrete", "continuous"),
        "final_sigmas_type": ("zero", "sigma_min"),
    }

    use_karras_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: str = "discrete"
    final_sigmas_type: str = "zero"

    def grid(self, num_inference_steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As the ancestral one, with the choices of sigmas and of what the network is told that only Euler has."""
        table = self.sigmas()
        timesteps = _float32(self.timesteps(num_inference_steps))
        sigmas = self.interpolated(timesteps)
        if self.use_karras_sigmas:
            sigma_min = self.sigma_min if self.sigma_min is not None else float(sigmas[-1])
            sigma_max = self.sigma_max if self.sigma_max is not None else float(sigmas[0])
            sigmas = karras_sigmas(sigma_min, sigma_max, num_inference_steps)
            timesteps = _float32(timesteps_of(sigmas, table))
        final = float(table[0]) if self.final_sigmas_type == "sigma_min" else 0.0
        sigmas = _float32(np.append(sigmas, final))
        if self.timestep_type == "continuous" and self.prediction_type == "v_prediction":
            timesteps = _float32(0.25 * np.log(sigmas[:-1]))
        return timesteps, sigmas


def euler(config: Mapping[str, object], num_inference_steps: int, begin: int) -> Plan:
    """Follow the slope eps from one sigma to the next: algorithm 1, which is DDIM's move at these levels."""
    schedule = EulerSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(num_inference_steps)
    levels = [Level(1.0, sigma) for sigma in sigmas[begin:].tolist()]
    rows = []
    for timestep, here, there in zip(timesteps[begin:], levels[:-1], levels[1:], strict=True):
        x0, eps = here.estimates(schedule.prediction_type, sample(), output())
        rows.append(Row(timestep=timestep, x_next=there.mix(x0, eps), x0=x0, input_scale=_input_scale(here)))
    return assemble(rows, levels, _init_noise_sigma(schedule, sigmas))


def euler_ancestral(config: Mapping[str, object], num_inference_steps: int, begin: int) -> Plan:
    """Step down past the next sigma, and add the noise that brings the sample back up to it."""
    schedule = AncestralSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(num_inference_steps)
    levels = [Level(1.0, sigma) for sigma in sigmas[begin:].tolist()]
    rows = []
    for timestep, here, there in zip(timesteps[begin:], levels[:-1], levels[1:], strict=True):
        x0, eps = here.estimates(schedule.prediction_type, sample(), output())
        down = there.sigma**2 / here.sigma
        up = there.sigma * float(np.sqrt(1 - (there.sigma / here.sigma) ** 2))
        x_next = Level(1.0, down).mix(x0, eps)
        # The last draw weighs nothing, but diffusers makes it.
        rows.append(Row(timestep=timestep, x_next=x_next, x0=x0, input_scale=_input_scale(here), noise=up))
    return assemble(rows, levels, _init_noise_sigma(schedule, sigmas))


def _input_scale(level: Level) -> float:
    return 1 / math.hypot(level.signal, level.sigma)


def _init_noise_sigma(schedule: Schedule, sigmas: NDArray[np.float64]) -> float:
    highest = float(sigmas.max())
    return math.hypot(1, highest) if schedule.timestep_spacing == "leading" else highest


def _float32(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to float32, where diffusers keeps its tables."""
    return values.astype(np.float32).astype(np.float64)
