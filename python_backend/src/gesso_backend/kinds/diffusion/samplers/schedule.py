"""What a checkpoint's scheduler_config.json says: betas, timesteps and noise levels, as diffusers would read it.

The file may be of any scheduler class. Each sampler reads it as its own diffusers class would with `from_config`: keys
that class knows, with that class's defaults for those the file lacks. Tables keep diffusers' float32 roundings, for a
table that is only nearly the same puts a timestep on the other side of a rounding now and then.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, UnsupportedScheduler

_ZERO_SNR_ALPHA = 2**-24  # diffusers' stand-in for an alpha-bar of 0, so that the first sigma is finite
_KARRAS_RHO = 7.0
_BETA = 0.6  # both parameters of the distribution that beta spacing takes its quantiles from


def stated(config: Mapping[str, object]) -> dict[str, object]:
    """What a raw config states itself.

    diffusers lists the keys that were not in the file it loaded, and forgets them when the class changes.
    """
    defaulted = config.get("_use_default_values") or ()
    if not isinstance(defaulted, list | tuple):
        raise UnsupportedScheduler.because("_use_default_values", defaulted)
    return {key: value for key, value in config.items() if key not in (*defaulted, "_use_default_values")}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of a scheduler_config.json; subclasses name those they read, and the values they serve."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    num_train_timesteps: int = 1000

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Read a config; raises UnsupportedScheduler naming the key of a value that cannot be served."""
        for key, served in cls.served.items():
            if key in config and config[key] not in served:
                raise UnsupportedScheduler.because(key, config[key])
        known = {field.name: field.default for field in fields(cls) if field.init}
        return cls(**{key: _typed(key, config[key], default) for key, default in known.items() if key in config})

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise UnsupportedScheduler.because("num_train_timesteps", self.num_train_timesteps)

    def given_timesteps(self, timesteps: Sequence[int]) -> list[int]:
        """A request's own timesteps. Raises InvalidSteps unless they fall and were trained."""
        if any(after >= before for before, after in pairwise(timesteps)):
            raise InvalidSteps("timesteps", "each must be below the one before it")
        if not 0 <= timesteps[-1] <= timesteps[0] < self.num_train_timesteps:
            raise InvalidSteps("timesteps", f"must be from 0 to {self.num_train_timesteps - 1}")
        return list(timesteps)


@dataclass(frozen=True, kw_only=True)
class Schedule(Config):
    """The keys that the diffusers schedulers of discrete diffusion share."""

    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] = ()  # empty: the beta schedule decides
    prediction_type: str = "epsilon"
    timestep_spacing: str = "linspace"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_start < 0:
            raise UnsupportedScheduler.because("beta_start", self.beta_start)
        if self.beta_end < 0:
            raise UnsupportedScheduler.because("beta_end", self.beta_end)
        if self.trained_betas and len(self.trained_betas) != self.num_train_timesteps:
            why = f"has {len(self.trained_betas)} betas"
            raise UnsupportedScheduler.because("num_train_timesteps", self.num_train_timesteps, why)

    def alphas_cumprod(self) -> NDArray[np.float32]:
        """DDPM's alpha-bar of every training timestep, [num_train_timesteps]."""
        betas = self._betas()
        if not np.all((betas >= 0) & (betas < 1)):
            raise UnsupportedScheduler("scheduler config: there are betas outside [0, 1)")
        if self.rescale_betas_zero_snr:
            betas = _rescale_zero_terminal_snr(betas)
        return _cumprod(1 - betas)

    def floored_alphas_cumprod(self) -> NDArray[np.float32]:
        """alpha-bar as the samplers that divide by it take it: zero terminal SNR is nearly zero."""
        alphas = self.alphas_cumprod()
        if self.rescale_betas_zero_snr:
            alphas[-1] = _ZERO_SNR_ALPHA
        return alphas

    def sigmas(self) -> NDArray[np.float32]:
        """The noise-to-signal ratio of every training timestep, [num_train_timesteps], rising."""
        alphas = self.floored_alphas_cumprod()
        sigmas: NDArray[np.float32] = np.sqrt((1 - alphas) / alphas)
        return sigmas

    def spaced(self, count: int, last: int, stride: float) -> NDArray[np.float64]:
        """Timesteps falling from about `last`, by the three rules of table 2 of arXiv:2305.08891; not yet rounded.

        `stride` is the real-valued distance that trailing spacing keeps. Through rounding trailing can come out one
        longer than `count`, with a last timestep of -1, as it does in diffusers (61 steps of 1000). Raises InvalidSteps
        for more steps than there are training timesteps.
        """
        if count > last:
            raise InvalidSteps("num_inference_steps", f"{count} timesteps do not fit into {last} training timesteps")
        if self.timestep_spacing == "linspace":
            return np.linspace(0, last - 1, count)[::-1]
        if self.timestep_spacing == "leading":
            return np.arange(count, dtype=np.float64)[::-1] * (last // count) + self.steps_offset
        if self.timestep_spacing == "trailing":
            return np.arange(last, 0, -stride, dtype=np.float64).round() - 1
        raise UnsupportedScheduler.because("timestep_spacing", self.timestep_spacing)

    def timesteps(self, num_inference_steps: int) -> NDArray[np.float64]:
        """The timesteps of a sampler that visits both ends of the training range."""
        last = self.num_train_timesteps
        return self.spaced(num_inference_steps, last, last / num_inference_steps)

    def _betas(self) -> NDArray[np.float32]:
        if self.trained_betas:
            return np.array(self.trained_betas, np.float32)
        if self.beta_schedule == "linear":
            return _linspace(self.beta_start, self.beta_end, self.num_train_timesteps)
        if self.beta_schedule == "scaled_linear":
            return _linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        if self.beta_schedule == "squaredcos_cap_v2":
            return _cosine(self.num_train_timesteps)
        raise UnsupportedScheduler.because("beta_schedule", self.beta_schedule)


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


def _linspace(start: float, end: float, count: int) -> NDArray[np.float32]:
    """torch.linspace in float32: a float32 step, counted from the nearer end with a fused multiply-add."""
    first, last = np.float32(start), np.float32(end)
    step = float((last - first) / np.float32(count - 1))
    index = np.arange(count)
    values = np.where(index < count // 2, float(first) + step * index, float(last) - step * (count - 1 - index))
    return values.astype(np.float32)


def _cosine(count: int) -> NDArray[np.float32]:
    """The betas of Nichol and Dhariwal's cosine schedule, arXiv:2102.09672, equation 17."""

    def alpha_bar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / count) / alpha_bar(i / count), 0.999) for i in range(count)]
    return np.array(betas, np.float32)


def _cumprod(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """torch.cumprod of float32 on a CPU: the running product is kept in float64."""
    return np.cumprod(factors.astype(np.float64)).astype(np.float32)


def _rescale_zero_terminal_snr(betas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and stretch sqrt(alpha-bar) so that it ends at 0: algorithm 1 of arXiv:2305.08891."""
    root = np.sqrt(_cumprod(1 - betas))
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    alpha_bar = root**2
    rescaled: NDArray[np.float32] = 1 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return rescaled


def _typed(key: str, value: object, default: object) -> Any:
    """`value` as the type of `default`; null is False for a flag, and no value where a number or a list is optional."""
    match default, value:
        case (bool(), bool() | None):
            return bool(value)
        case (tuple(), None):
            return ()
        case (tuple(), list() | tuple()) if all(isinstance(item, int | float) for item in value):
            return tuple(value)
        case (str(), str()) | (None, None):
            return value
        case (int(), int()) if not isinstance(default, bool) and not isinstance(value, bool):
            return value
        case (float() | None, float() | int()) if not isinstance(value, bool):
            return float(value)
    raise UnsupportedScheduler.because(key, value, "has the wrong type")
