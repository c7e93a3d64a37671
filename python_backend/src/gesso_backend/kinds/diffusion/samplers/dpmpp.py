"""DPM-Solver++ (Lu et al., arXiv:2211.01095): 2M, its stochastic form, and the single-step 2S."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import SamplerArguments
from gesso_backend.kinds.diffusion.samplers.level import Level, Linear, output, sample
from gesso_backend.kinds.diffusion.samplers.schedule import Schedule
from gesso_backend.kinds.diffusion.samplers.spacing import Spacing, timesteps_of
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble

_FEW_STEPS = 15  # below this many steps `lower_order_final` makes the last one first-order


@dataclass(frozen=True, kw_only=True)
class SolverSchedule(Schedule, Spacing):
    """What the multistep solvers' schedules share: whole timesteps, one of which is left for the final sigma."""

    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -math.inf

    def grid(self, arguments: SamplerArguments) -> tuple[list[int], list[float]]:
        """Timesteps and their sigmas, with the final one after them."""
        table = self.sigmas()
        respaced = (
            None if arguments.timesteps is not None else self.respaced(table[::-1], arguments.num_inference_steps)
        )
        if respaced is not None:
            sigmas, timesteps = respaced, timesteps_of(respaced, table)
            if self.rounds():
                timesteps = timesteps.round()
        else:
            timesteps = self._visited(arguments)
            sigmas = np.interp(timesteps, np.arange(self.num_train_timesteps), table)
        final = self.lowest(sigmas, table) if self.final_sigmas_type == "sigma_min" else 0.0
        return timesteps.astype(np.int64).tolist(), np.append(sigmas, final).astype(np.float32).tolist()

    def rounds(self) -> bool:
        """Whether timesteps found for sigmas are rounded; diffusers truncates them where it does not."""
        return self.use_karras_sigmas

    def lowest(self, sigmas: NDArray[np.float64], table: NDArray[np.float32]) -> float:
        """The final sigma of `final_sigmas_type` "sigma_min"."""
        return float(table[0])

    def last_timestep(self) -> int:
        """How many timesteps stay above the clipped log-SNR."""
        alphas = self.floored_alphas_cumprod()
        log_snr = np.log(np.sqrt(alphas)) - np.log(np.sqrt(1 - alphas))
        return self.num_train_timesteps - int(np.searchsorted(log_snr[::-1], self.lambda_min_clipped))

    def _visited(self, arguments: SamplerArguments) -> NDArray[np.float64]:
        """Timesteps above 0, which the final sigma stands for."""
        if arguments.timesteps is not None:
            return np.array(self.given_timesteps(arguments.timesteps), np.float64)
        last, count = self.last_timestep(), arguments.num_inference_steps
        if self.timestep_spacing == "trailing":  # it never reaches 0
            return self.spaced(count, last, self.num_train_timesteps / count)
        return self.spaced(count + 1, last, self.num_train_timesteps / count)[:-1].round()


@dataclass(frozen=True, kw_only=True)
class MultistepSchedule(SolverSchedule):
    """diffusers' DPMSolverMultistepScheduler with (sde-)dpmsolver++, order 2, midpoint."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
        "use_lu_lambdas": (False, None),
        "use_flow_sigmas": (False, None),
        "variance_type": (None,),
        "final_sigmas_type": ("zero", "sigma_min"),
    }

    lower_order_final: bool = True
    euler_at_final: bool = False

    def rounds(self) -> bool:
        return self.use_karras_sigmas and self.beta_schedule != "squaredcos_cap_v2"


@dataclass(frozen=True, kw_only=True)
class SinglestepSchedule(SolverSchedule):
    """diffusers' DPMSolverSinglestepScheduler with dpmsolver++, order 2, midpoint."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
        "use_flow_sigmas": (False, None),
        "variance_type": (None,),
        "final_sigmas_type": ("zero", "sigma_min"),
    }

    lower_order_final: bool = False
    timestep_spacing: str = field(default="linspace", init=False)
    steps_offset: int = field(default=0, init=False)
    rescale_betas_zero_snr: bool = field(default=False, init=False)

    def orders(self, count: int) -> list[int]:
        """First and second order by turns, ending on the first where the final sigma cannot be extrapolated to."""
        orders = [1, 2] * (count // 2) + [1] * (count % 2)
        if self.final_sigmas_type == "zero" or (self.lower_order_final and count % 2 == 0):
            orders[-1] = 1
        return orders


def dpmpp_2m(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """DDIM's move with x0 extrapolated from this step and the one before it: algorithm 2."""
    return _multistep(config, arguments, stochastic=False)


def dpmpp_2m_sde(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """The same for the diffusion SDE: a shorter move, and fresh noise up to the level that 2M moves to."""
    return _multistep(config, arguments, stochastic=True)


def _multistep(config: Mapping[str, object], arguments: SamplerArguments, stochastic: bool) -> Table:
    schedule = MultistepSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    count = len(timesteps)
    last_is_first_order = (
        schedule.final_sigmas_type == "zero"
        or schedule.euler_at_final
        or (schedule.lower_order_final and count < _FEW_STEPS)
    )
    levels = [Level.from_sigma(sigma) for sigma in sigmas]
    rows = []
    for i in range(arguments.begin, count):
        here, there = levels[i], levels[i + 1]
        x0 = _x0(schedule, here)
        target = x0
        if i > arguments.begin and not (i == count - 1 and last_is_first_order):
            before = levels[i - 1]
            ratio = (there.log_snr - here.log_snr) / (here.log_snr - before.log_snr)
            target = x0 + ratio / 2 * (x0 - _x0(schedule, before, 1))
        if stochastic:
            shrink = math.exp(2 * (here.log_snr - there.log_snr))
            x_next = there.sigma / here.sigma * math.sqrt(shrink) * sample() + there.signal * (1 - shrink) * target
            rows.append(Row(timestep=timesteps[i], x_next=x_next, x0=x0, noise=there.sigma * math.sqrt(1 - shrink)))
        else:
            rows.append(Row(timestep=timesteps[i], x_next=_towards(here, there, sample(), target), x0=x0))
    return assemble(rows, levels[arguments.begin :])


def dpmpp_2s(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Every second step starts where the one before it did, with x0 extrapolated over both: algorithm 1."""
    schedule = SinglestepSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    count = len(timesteps)
    orders = schedule.orders(count)
    levels = [Level.from_sigma(sigma) for sigma in sigmas]
    rows = []
    for i in range(arguments.begin, count):
        here, there = levels[i], levels[i + 1]
        x0 = _x0(schedule, here)
        if orders[i] == 1 or i == arguments.begin:
            x_next = _towards(here, there, sample(), x0)
        else:
            start = levels[i - 1]
            x0_before = _x0(schedule, start, 1)
            ratio = (there.log_snr - start.log_snr) / (here.log_snr - start.log_snr)
            x_next = _towards(start, there, sample(1), x0_before + ratio / 2 * (x0 - x0_before))
        rows.append(Row(timestep=timesteps[i], x_next=x_next, x0=x0))
    return assemble(rows, levels[arguments.begin :])


def _x0(schedule: SolverSchedule, level: Level, steps_ago: int = 0) -> Linear:
    """The estimate of the clean image `steps_ago`, when the sample was at `level`."""
    return level.estimates(schedule.prediction_type, sample(steps_ago), output(steps_ago))[0]


def _towards(here: Level, there: Level, x: Linear, x0: Linear) -> Linear:
    """DDIM's move from `here`, where `x` is, to `there`, if the clean image is `x0`."""
    return there.mix(*here.estimates("sample", x, x0))
