"""Noise levels, and the algebra that turns a sampler's paper into rows of weights.

A sampler is written with symbols: `sample(k)` is the sample k steps ago and `output(k)` what the network said then. A
symbol is an array of weights, so sums and multiples of symbols are numpy's, and the formula for the next sample *is*
the row of its table. What the network predicts is dealt with here and nowhere else.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A linear form in the history, [2, LAGS]: weights of the samples, then of the model outputs, newest first.
Linear = NDArray[np.float64]

LAGS = 13  # PNDM reads its first Runge-Kutta output 12 steps later


def sample(steps_ago: int = 0) -> Linear:
    """The symbol of the sample as it was `steps_ago`."""
    return _symbol(0, steps_ago)


def output(steps_ago: int = 0) -> Linear:
    """The symbol of the model output of `steps_ago`."""
    return _symbol(1, steps_ago)


def _symbol(kind: int, steps_ago: int) -> Linear:
    form = np.zeros((2, LAGS))
    form[kind, steps_ago] = 1.0
    return form


@dataclass(frozen=True)
class Level:
    """A noise level: a sample at it is `signal*x0 + sigma*eps`. (1, 0) is clean.

    Variance-preserving samplers have signal**2 + sigma**2 = 1; Euler's variance-exploding ones have signal = 1. The
    network always sees samples scaled to the former.
    """

    signal: float
    sigma: float

    @classmethod
    def from_alpha_cumprod(cls, alpha: float) -> "Level":
        """The level that DDPM calls alpha-bar."""
        return cls(math.sqrt(alpha), math.sqrt(1 - alpha))

    @classmethod
    def from_sigma(cls, sigma: float) -> "Level":
        """The variance-preserving level whose sigma / signal is `sigma`."""
        return cls(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))

    @property
    def log_snr(self) -> float:
        """DPM-Solver's lambda, half the logarithm of the signal-to-noise ratio; infinite where clean."""
        return math.log(self.signal / self.sigma) if self.sigma else math.inf

    def estimates(self, prediction_type: str, x: Linear, prediction: Linear) -> tuple[Linear, Linear]:
        """The clean image x0 and the noise eps in `x` at this level, given what a network predicted for it.

        `epsilon` and `sample` are eps and x0 themselves; `v_prediction` is signal*eps - sigma*x0 of the
        variance-preserving sample (Salimans and Ho, arXiv:2202.00512, appendix D).
        """
        if prediction_type == "epsilon":
            return (x - self.sigma * prediction) / self.signal, prediction
        if prediction_type == "v_prediction":
            norm = math.hypot(self.signal, self.sigma)
            signal, sigma = self.signal / norm, self.sigma / norm
            return signal * x / norm - sigma * prediction, sigma * x / norm + signal * prediction
        assert prediction_type == "sample", prediction_type
        return prediction, (x - self.signal * prediction) / self.sigma

    def mix(self, x0: Linear, eps: Linear) -> Linear:
        """The sample at this level: DDIM's move, equation 12 of arXiv:2010.02502 without its random part."""
        return self.signal * x0 + self.sigma * eps


CLEAN = Level(1.0, 0.0)
