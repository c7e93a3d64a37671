"""Flow matching (Lipman et al., arXiv:2210.02747; Esser et al., arXiv:2403.03206): Euler and Heun on straight paths.

A sample is `(1 - sigma)*x0 + sigma*eps`, and the network says its velocity, eps - x0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, SamplerArguments, UnsupportedScheduler
from gesso_backend.kinds.diffusion.samplers.config import Config
from gesso_backend.kinds.diffusion.samplers.level import Level, output, sample
from gesso_backend.kinds.diffusion.samplers.spacing import Spacing, falling_sigmas
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble


@dataclass(frozen=True, kw_only=True)
class FlowSchedule(Config):
    """diffusers' FlowMatchHeunDiscreteScheduler."""

    shift: float = 1.0

    def grid(self, arguments: SamplerArguments) -> tuple[list[float], list[float]]:
        """Timesteps, and their sigmas with the final 0 after them; both rounded to float32."""
        sigmas = self.shifted(self.unshifted(arguments.num_inference_steps), arguments)
        return self._rounded(sigmas)

    def unshifted(self, count: int) -> NDArray[np.float64]:
        """Evenly from the highest to the lowest sigma, which diffusers has shifted once already."""
        ends = np.array([self.num_train_timesteps, 1], np.float32) / np.float32(self.num_train_timesteps)
        high, low = (float(sigma) * self.num_train_timesteps for sigma in self.ends(ends))
        return np.linspace(high, low, count) / self.num_train_timesteps

    def ends(self, sigmas: NDArray[np.float32]) -> NDArray[np.float32]:
        """The highest and the lowest sigma of training, in torch's float32."""
        shifted: NDArray[np.float32] = np.float32(self.shift) * sigmas / (1 + np.float32(self.shift - 1) * sigmas)
        return shifted

    def shifted(self, sigmas: NDArray[Any], arguments: SamplerArguments) -> NDArray[Any]:
        return self.shift * sigmas / (1 + (self.shift - 1) * sigmas)

    def _rounded(self, sigmas: NDArray[Any]) -> tuple[list[float], list[float]]:
        rounded = sigmas.astype(np.float32)
        timesteps = (rounded * np.float32(self.num_train_timesteps)).tolist()
        return timesteps, [*rounded.tolist(), 0.0]


@dataclass(frozen=True, kw_only=True)
class FlowEulerSchedule(FlowSchedule, Spacing):
    """diffusers' FlowMatchEulerDiscreteScheduler."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "invert_sigmas": (False, None),
        "time_shift_type": ("exponential", "linear"),
    }

    use_dynamic_shifting: bool = False
    shift_terminal: float | None = None
    time_shift_type: str = "exponential"
    stochastic_sampling: bool = False

    def grid(self, arguments: SamplerArguments) -> tuple[list[float], list[float]]:
        shifted = self.shifted(self._before_shift(arguments), arguments)
        if self.shift_terminal:
            shifted = 1 - (1 - shifted) / ((1 - shifted[-1]) / (1 - self.shift_terminal))
        respaced = self.respaced(shifted, len(shifted))
        timesteps, sigmas = self._rounded(shifted if respaced is None else respaced)
        # diffusers tells the network the timesteps as they were given, and shifts their sigmas all the same.
        return (timesteps if arguments.timesteps is None else [float(t) for t in arguments.timesteps]), sigmas

    def _before_shift(self, arguments: SamplerArguments) -> NDArray[Any]:
        if arguments.sigmas is not None:
            sigmas = falling_sigmas(arguments.sigmas)
            if sigmas[-1] == 0 or sigmas[0] > 1:
                raise InvalidSteps("sigmas", "must be above 0 and at most 1")
            return np.array(sigmas, np.float32)
        if arguments.timesteps is not None:
            return np.array(self.given_timesteps(arguments.timesteps), np.float32) / self.num_train_timesteps
        return self.unshifted(arguments.num_inference_steps)

    def ends(self, sigmas: NDArray[np.float32]) -> NDArray[np.float32]:
        return sigmas if self.use_dynamic_shifting else super().ends(sigmas)

    def shifted(self, sigmas: NDArray[Any], arguments: SamplerArguments) -> NDArray[Any]:
        """Towards 1, and the more so the larger the picture: section 5.3.2 of arXiv:2403.03206."""
        if not self.use_dynamic_shifting:
            return super().shifted(sigmas, arguments)
        if arguments.mu is None:
            raise UnsupportedScheduler.because("use_dynamic_shifting", True, "needs to know the picture's size")
        shift = math.exp(arguments.mu) if self.time_shift_type == "exponential" else arguments.mu
        return shift / (shift + (1 / sigmas - 1))


def flow_euler(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Follow the velocity from one sigma to the next; with `stochastic_sampling` jump to x0 and noise it anew."""
    schedule = FlowEulerSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    rows = []
    for timestep, here, there in zip(
        timesteps[arguments.begin :], sigmas[arguments.begin :], sigmas[arguments.begin + 1 :], strict=False
    ):
        x0 = sample() - here * output()
        if schedule.stochastic_sampling:
            rows.append(Row(timestep=timestep, x_next=(1 - there) * x0, x0=x0, noise=there))
        else:
            rows.append(Row(timestep=timestep, x_next=sample() + (there - here) * output(), x0=x0))
    return assemble(rows, _levels(sigmas[arguments.begin :]))


def flow_heun(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Each step again with the mean of the velocities at its two ends; two rows but for the last."""
    schedule = FlowSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    rows: list[Row] = []
    visited: list[float] = []
    for i, (here, there) in enumerate(pairwise(sigmas[arguments.begin :]), start=arguments.begin):
        x_next = sample() + (there - here) * output()
        rows.append(Row(timestep=timesteps[i], x_next=x_next, x0=sample() - here * output()))
        visited.append(here)
        if there:
            x_next = sample(1) + (there - here) / 2 * (output(1) + output())
            rows.append(Row(timestep=timesteps[i + 1], x_next=x_next, x0=sample() - there * output()))
            visited.append(there)
    return assemble(rows, _levels(visited))


def _levels(sigmas: list[float]) -> list[Level]:
    return [Level(1 - sigma, sigma) for sigma in sigmas]
