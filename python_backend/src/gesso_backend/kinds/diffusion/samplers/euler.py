"""Euler, Euler ancestral and Heun, in the terms of Karras et al. (arXiv:2206.00364) and of crowsonkb/k-diffusion.

Samples are `x0 + sigma*eps`: the signal is never scaled down, so the network's input is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import SamplerArguments
from gesso_backend.kinds.diffusion.samplers.level import Level, output, sample
from gesso_backend.kinds.diffusion.samplers.schedule import Schedule
from gesso_backend.kinds.diffusion.samplers.spacing import Spacing, falling_sigmas, timesteps_of
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble


@dataclass(frozen=True, kw_only=True)
class AncestralSchedule(Schedule):
    """diffusers' EulerAncestralDiscreteScheduler."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {"prediction_type": ("epsilon", "v_prediction")}

    def grid(self, arguments: SamplerArguments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Timesteps, possibly fractional, and their sigmas with the final one after them; all rounded to float32."""
        timesteps = _float32(self.timesteps(arguments.num_inference_steps))
        return timesteps, _float32(np.append(self.interpolated(timesteps), 0.0))

    def interpolated(self, timesteps: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sigmas of fractional timesteps."""
        return np.interp(timesteps, np.arange(self.num_train_timesteps), self.sigmas())


@dataclass(frozen=True, kw_only=True)
class SpacedSchedule(AncestralSchedule, Spacing):
    """What Euler and Heun have in common."""

    def spaced_grid(
        self, arguments: SamplerArguments, table: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Timesteps and sigmas, not yet rounded, without the final sigma."""
        if arguments.timesteps is not None:
            timesteps = np.array(self.given_timesteps(arguments.timesteps), np.float64)
        else:
            timesteps = _float32(self.timesteps(arguments.num_inference_steps))
        sigmas = self.interpolated(timesteps)
        respaced = self.respaced(sigmas, arguments.num_inference_steps)
        return (timesteps, sigmas) if respaced is None else (timesteps_of(respaced, table), respaced)


@dataclass(frozen=True, kw_only=True)
class EulerSchedule(SpacedSchedule):
    """diffusers' EulerDiscreteScheduler; with Karras sigmas it is Karras' own sampler without churn."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "interpolation_type": ("linear",),
        "timestep_type": ("discrete", "continuous"),
        "final_sigmas_type": ("zero", "sigma_min"),
    }

    timestep_type: str = "discrete"
    final_sigmas_type: str = "zero"

    def grid(self, arguments: SamplerArguments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As the ancestral one, with the choices of sigmas and of what the network is shown that only Euler has."""
        table = self.sigmas()
        if arguments.sigmas is not None:
            sigmas = _float32(np.array(falling_sigmas(arguments.sigmas)))
            timesteps = timesteps_of(sigmas[:-1].astype(np.float32), table)
        else:
            timesteps, sigmas = self.spaced_grid(arguments, table)
            final = float(table[0]) if self.final_sigmas_type == "sigma_min" else 0.0
            sigmas = _float32(np.append(sigmas, final))
        if self.timestep_type == "continuous" and self.prediction_type == "v_prediction":
            timesteps = 0.25 * np.log(sigmas[:-1])
        return _float32(timesteps), sigmas


@dataclass(frozen=True, kw_only=True)
class HeunSchedule(SpacedSchedule):
    """diffusers' HeunDiscreteScheduler, which does not know zero terminal SNR."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "clip_sample": (False, None),  # the second half of a step would need the first one's clipped x0
    }

    beta_start: float = 0.00085
    beta_end: float = 0.012
    rescale_betas_zero_snr: bool = field(default=False, init=False)

    def grid(self, arguments: SamplerArguments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Timesteps, possibly fractional, and their sigmas with the final 0 after them; all rounded to float32."""
        timesteps, sigmas = self.spaced_grid(arguments, self.sigmas())
        return _float32(timesteps), _float32(np.append(sigmas, 0.0))


def euler(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Follow the slope eps from one sigma to the next: algorithm 1, which is DDIM's move at these levels."""
    schedule = EulerSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    levels = [Level(1.0, sigma) for sigma in sigmas[arguments.begin :].tolist()]
    rows = []
    for timestep, here, there in zip(timesteps[arguments.begin :], levels[:-1], levels[1:], strict=True):
        x0, eps = here.estimates(schedule.prediction_type, sample(), output())
        rows.append(Row(timestep=timestep, x_next=there.mix(x0, eps), x0=x0, input_scale=_input_scale(here)))
    return assemble(rows, levels, _init_noise_sigma(schedule, sigmas))


def euler_ancestral(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Step down past the next sigma, and add the noise that brings the sample back up to it."""
    schedule = AncestralSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    levels = [Level(1.0, sigma) for sigma in sigmas[arguments.begin :].tolist()]
    rows = []
    for timestep, here, there in zip(timesteps[arguments.begin :], levels[:-1], levels[1:], strict=True):
        x0, eps = here.estimates(schedule.prediction_type, sample(), output())
        down = there.sigma**2 / here.sigma
        up = there.sigma * float(np.sqrt(1 - (there.sigma / here.sigma) ** 2))
        x_next = Level(1.0, down).mix(x0, eps)
        # The last draw weighs nothing, but diffusers makes it.
        rows.append(Row(timestep=timestep, x_next=x_next, x0=x0, input_scale=_input_scale(here), noise=up))
    return assemble(rows, levels, _init_noise_sigma(schedule, sigmas))


def heun(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Euler's step, then the same step again with the mean of the slopes at its two ends; two rows but for the last.

    Algorithm 1 of arXiv:2206.00364, with its correction.
    """
    schedule = HeunSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    steps = [Level(1.0, sigma) for sigma in sigmas[arguments.begin :].tolist()]
    shown = timesteps[arguments.begin :].tolist()
    rows: list[Row] = []
    levels: list[Level] = []
    for i, (here, there) in enumerate(pairwise(steps)):
        x0, eps = here.estimates(schedule.prediction_type, sample(), output())
        rows.append(Row(timestep=shown[i], x_next=there.mix(x0, eps), x0=x0, input_scale=_input_scale(here)))
        levels.append(here)
        if there.sigma == 0:
            continue
        _, slope_before = here.estimates(schedule.prediction_type, sample(1), output(1))
        x0, slope = there.estimates(schedule.prediction_type, sample(), output())
        x_next = sample(1) + (there.sigma - here.sigma) * (slope_before + slope) / 2
        rows.append(Row(timestep=shown[i + 1], x_next=x_next, x0=x0, input_scale=_input_scale(there)))
        levels.append(there)
    return assemble(rows, levels, _init_noise_sigma(schedule, sigmas))


def _input_scale(level: Level) -> float:
    return 1 / math.hypot(level.signal, level.sigma)


def _init_noise_sigma(schedule: Schedule, sigmas: NDArray[np.float64]) -> float:
    highest = float(sigmas.max())
    return math.hypot(1, highest) if schedule.timestep_spacing == "leading" else highest


def _float32(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded to float32, where diffusers keeps its tables."""
    return values.astype(np.float32).astype(np.float64)
