"""DPM-Solver++ 2M (Lu et al., arXiv:2211.01095, algorithm 2), and the same on Karras sigmas."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gesso_backend.samplers.level import Level, output, sample
from gesso_backend.samplers.schedule import Schedule, karras_sigmas, timesteps_of
from gesso_backend.samplers.table import Plan, Row, assemble

_FEW_STEPS = 15  # below this many steps `lower_order_final` makes the last one first-order


@dataclass(frozen=True, kw_only=True)
class DPMSchedule(Schedule):
    """diffusers' DPMSolverMultistepScheduler with dpmsolver++, order 2, midpoint.

    `sigma_min` and `sigma_max` are not its own keys, yet it obeys them when the config of another class has them.
    """

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
        "use_exponential_sigmas": (False, None),
        "use_beta_sigmas": (False, None),
        "use_lu_lambdas": (False, None),
        "use_flow_sigmas": (False, None),
        "variance_type": (None,),
        "final_sigmas_type": ("zero", "sigma_min"),
    }

    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -math.inf
    sigma_min: float | None = None
    sigma_max: float | None = None

    def grid(self, num_inference_steps: int, karras: bool) -> tuple[list[int], list[float]]:
        """Whole timesteps and their sigmas, with the final one after them."""
        table = self.sigmas()
        if karras:
            sigma_min = self.sigma_min if self.sigma_min is not None else float(table[0])
            sigma_max = self.sigma_max if self.sigma_max is not None else float(table[-1])
            sigmas = karras_sigmas(sigma_min, sigma_max, num_inference_steps)
            timesteps = timesteps_of(sigmas, table)
            if self.beta_schedule != "squaredcos_cap_v2":
                timesteps = timesteps.round()
        else:
            timesteps = self._clipped_timesteps(num_inference_steps)
            sigmas = np.interp(timesteps, np.arange(self.num_train_timesteps), table)
        final = float(table[0]) if self.final_sigmas_type == "sigma_min" else 0.0
        return timesteps.astype(np.int64).tolist(), np.append(sigmas, final).astype(np.float32).tolist()

    def _clipped_timesteps(self, num_inference_steps: int) -> NDArray[np.float64]:
        """Timesteps that stay above the clipped log-SNR, and above timestep 0, which the final sigma stands for."""
        alphas = self.floored_alphas_cumprod()
        log_snr = np.log(np.sqrt(alphas)) - np.log(np.sqrt(1 - alphas))
        last = self.num_train_timesteps - int(np.searchsorted(log_snr[::-1], self.lambda_min_clipped))
        stride = self.num_train_timesteps / num_inference_steps
        if self.timestep_spacing == "trailing":  # it never reaches 0
            return self.spaced(num_inference_steps, last, stride)
        return self.spaced(num_inference_steps + 1, last, stride)[:-1].round()


def dpmpp_2m(config: Mapping[str, object], num_inference_steps: int, begin: int, karras: bool = False) -> Plan:
    """DDIM's move with x0 extrapolated from this step and the one before it."""
    schedule = DPMSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(num_inference_steps, karras)
    count = len(timesteps)
    last_is_first_order = (
        schedule.final_sigmas_type == "zero"
        or schedule.euler_at_final
        or (schedule.lower_order_final and count < _FEW_STEPS)
    )
    levels = [Level.from_sigma(sigma) for sigma in sigmas]
    rows = []
    for i in range(begin, count):
        here, there = levels[i], levels[i + 1]
        x0, _ = here.estimates(schedule.prediction_type, sample(), output())
        target = x0
        if i > begin and not (i == count - 1 and last_is_first_order):
            before = levels[i - 1]
            x0_before, _ = before.estimates(schedule.prediction_type, sample(1), output(1))
            ratio = (there.log_snr - here.log_snr) / (here.log_snr - before.log_snr)
            target = x0 + ratio / 2 * (x0 - x0_before)
        x_next = there.mix(*here.estimates("sample", sample(), target))
        rows.append(Row(timestep=timesteps[i], x_next=x_next, x0=x0))
    return assemble(rows, levels[begin:])


def dpmpp_2m_karras(config: Mapping[str, object], num_inference_steps: int, begin: int) -> Plan:
    """DPM-Solver++ 2M on the sigmas of arXiv:2206.00364."""
    return dpmpp_2m(config, num_inference_steps, begin, karras=True)
