"""Sigmas spaced otherwise than the training schedule: Karras, exponential, beta, or a request's own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, UnsupportedScheduler
from gesso_backend.kinds.diffusion.samplers.config import Config

_KARRAS_RHO = 7.0
_BETA = 0.6  # both parameters of the distribution that beta spacing takes its quantiles from


@dataclass(frozen=True, kw_only=True)
class Spacing(Config):
    """How the sigmas between the highest and the lowest are spaced; `respaced` is None where they stay as they are.

    `sigma_min` and `sigma_max` are not keys of every class, yet all obey them when a config has them.
    """

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None

    def respaced(self, sigmas: NDArray[Any], count: int) -> NDArray[np.float64] | None:
        """`count` sigmas falling over the range of `sigmas`, which fall too."""
        if not (self.use_karras_sigmas or self.use_exponential_sigmas or self.use_beta_sigmas):
            return None
        low = self.sigma_min if self.sigma_min is not None else float(sigmas[-1])
        high = self.sigma_max if self.sigma_max is not None else float(sigmas[0])
        if not 0 < low <= high:
            raise UnsupportedScheduler.because("sigma_min", low, f"is not above 0 and at most sigma_max={high!r}")
        if self.use_karras_sigmas:
            return _karras(low, high, count)
        return _exponential(low, high, count) if self.use_exponential_sigmas else _beta(low, high, count)


def _karras(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Equation 5 of arXiv:2206.00364."""
    first, last = high ** (1 / _KARRAS_RHO), low ** (1 / _KARRAS_RHO)
    sigmas: NDArray[np.float64] = (first + np.linspace(0, 1, count) * (last - first)) ** _KARRAS_RHO
    return sigmas


def _exponential(low: float, high: float, count: int) -> NDArray[np.float64]:
    sigmas: NDArray[np.float64] = np.exp(np.linspace(math.log(high), math.log(low), count))
    return sigmas


def _beta(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Quantiles of a beta distribution: "Beta Sampling is All You Need", arXiv:2407.12173."""
    from scipy.stats import beta  # takes a second to import, and few arguments for it

    quantiles: NDArray[np.float64] = beta.ppf(1 - np.linspace(0, 1, count), _BETA, _BETA)
    return low + quantiles * (high - low)


def falling_sigmas(sigmas: Sequence[float]) -> list[float]:
    """A request's own sigmas. Raises InvalidSteps unless they fall, and none but the last is as low as 0."""
    if any(not after < before for before, after in pairwise(sigmas)) or not (sigmas[-1] >= 0 < sigmas[0] < math.inf):
        raise InvalidSteps("sigmas", "each must be below the one before it, and the last at least 0")
    return list(sigmas)


def timesteps_of(sigmas: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.float64]:
    """The fractional timesteps of `sigmas`, between the logs of `table` (one sigma per training timestep)."""
    log_table = np.log(table)
    return np.array([_timestep_of(sigma, log_table) for sigma in sigmas])


def _timestep_of(sigma: np.floating[Any], log_table: NDArray[np.float32]) -> float:
    # One sigma at a time and in arrays of one, for then numpy 1 and 2 each round as they do in diffusers' own code.
    distance = np.log(np.maximum(sigma, 1e-10)) - log_table
    reached = np.flatnonzero(distance >= 0)  # the last of them counts: zero terminal SNR can make the table dip
    below = min(int(reached[-1]) if reached.size else 0, len(log_table) - 2)
    low, high = np.array([below]), np.array([below + 1])
    weight = np.clip(-distance[low] / (log_table[low] - log_table[high]), 0, 1)
    return float(((1 - weight) * low + weight * high)[0])
