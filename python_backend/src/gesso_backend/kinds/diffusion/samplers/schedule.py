"""What a checkpoint's scheduler_config.json says: betas, timesteps and noise levels, as diffusers would read it.

The file may be of any scheduler class. Each sampler reads it as its own diffusers class would with `from_config`: keys
that class knows, with that class's defaults for those the file lacks. Tables keep diffusers' float32 roundings, for a
table that is only nearly the same puts a timestep on the other side of a rounding now and then.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.arguments import InvalidSteps, UnsupportedScheduler
from gesso_backend.kinds.diffusion.samplers.config import Config

_ZERO_SNR_ALPHA = 2**-24  # diffusers' stand-in for an alpha-bar of 0, so that the first sigma is finite


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
