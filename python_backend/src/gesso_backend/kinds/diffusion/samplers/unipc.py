"""UniPC (Zhao et al., arXiv:2302.04867): B(h) of the second kind, order 2, predicting x0."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import SamplerArguments
from gesso_backend.kinds.diffusion.samplers.dpmpp import SolverSchedule
from gesso_backend.kinds.diffusion.samplers.level import Level, Linear, output, sample
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble


@dataclass(frozen=True, kw_only=True)
class UniPCSchedule(SolverSchedule):
    """diffusers' UniPCMultistepScheduler with order 2 and bh2."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "thresholding": (False, None),
        "predict_x0": (True,),
        "disable_corrector": ([], (), None),
        "solver_p": (None,),
        "use_flow_sigmas": (False, None),
        "final_sigmas_type": ("zero", "sigma_min"),
    }

    lower_order_final: bool = True
    lambda_min_clipped: float = field(default=-math.inf, init=False)

    def lowest(self, sigmas: NDArray[np.float64], table: NDArray[np.float32]) -> float:
        respaced = self.use_karras_sigmas or self.use_exponential_sigmas or self.use_beta_sigmas
        return float(sigmas[-1] if respaced else table[0])


def unipc(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Each sample is corrected with what the network says of it, and the next is predicted from the corrected one.

    Prediction and correction of a sample differ only in the x0's they take, so the corrected sample is the sample and
    a sum of x0's (equations 3 and 9).
    """
    schedule = UniPCSchedule.from_config(config)
    timesteps, sigmas = schedule.grid(arguments)
    count = len(timesteps)
    levels = [Level.from_sigma(sigma) for sigma in sigmas]

    def x0(i: int, steps_ago: int) -> Linear:
        return levels[i - steps_ago].estimates(schedule.prediction_type, sample(steps_ago), output(steps_ago))[0]

    rows = []
    order = 0
    for i in range(arguments.begin, count):
        corrected = sample()
        if i > arguments.begin:
            h = levels[i].log_snr - levels[i - 1].log_snr
            rise = x0(i, 0) - x0(i, 1)
            change = rise / 2
            if order == 2:  # of the prediction that made this sample
                ratio = (levels[i - 2].log_snr - levels[i - 1].log_snr) / h
                past = (x0(i, 2) - x0(i, 1)) / ratio
                of_past, of_rise = _corrector_weights(ratio, h)
                change = of_rise * rise + (of_past - 1 / 2) * past
            corrected = sample() - levels[i].signal * math.expm1(-h) * change
        order = min(2, i - arguments.begin + 1, count - i if schedule.lower_order_final else 2)
        here, there = levels[i], levels[i + 1]
        h = there.log_snr - here.log_snr
        target = x0(i, 0)
        if order == 2 and h:  # a final sigma that comes twice leaves nowhere to go
            ratio = (levels[i - 1].log_snr - here.log_snr) / h
            target = target + (x0(i, 1) - x0(i, 0)) / ratio / 2
        x_next = there.sigma / here.sigma * corrected - there.signal * math.expm1(-h) * target
        rows.append(Row(timestep=timesteps[i], x_next=x_next, x0=x0(i, 0)))
    return assemble(rows, levels[arguments.begin :])


def _corrector_weights(ratio: float, h: float) -> tuple[float, float]:
    """The solution of R rho = b of order 2: the weights of the past difference and of the newest one."""
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 1 / 2
    first, second = phi_2 / phi_1, 2 * phi_3 / phi_1  # rho_0 + rho_1 = first, ratio * rho_0 + rho_1 = second
    of_past = (second - first) / (ratio - 1)
    return of_past, first - of_past
