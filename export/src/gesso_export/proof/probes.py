"""The inputs a network is tried out on: which sizes, and likely values for each input."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gesso_export.bundle.tensor import BATCH, HEIGHT, LATENT_HEIGHT, LATENT_WIDTH, TOKENS, WIDTH
from gesso_export.proof.reference import Array

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

# (batch, latent height, latent width, chunks of the prompt): the traced one, one odd on both sides, a small one.
_LATENT_CASES = ((2, 16, 24, 2), (1, 17, 33, 1), (3, 7, 9, 3))


def latent_cases(factor: int, tokens: int = 1, multiple: int = 1) -> tuple[Mapping[str, int], ...]:
    """Sizes of the free axes; height and width are `factor` times the latent ones. The first is the one to trace.

    `tokens` are those of one chunk of a prompt; latent sides are rounded up to the `multiple`.
    """
    return tuple(
        {
            BATCH: batch,
            HEIGHT: height * factor,
            WIDTH: width * factor,
            LATENT_HEIGHT: height,
            LATENT_WIDTH: width,
            TOKENS: chunks * tokens,
        }
        for batch, height, width, chunks in (
            (batch, -(-height // multiple) * multiple, -(-width // multiple) * multiple, chunks)
            for batch, height, width, chunks in _LATENT_CASES
        )
    )


def normal(scale: float = 1.0) -> Draw:
    """Gaussian values of this standard deviation, float32."""
    return lambda rng, shape: (scale * rng.standard_normal(shape)).astype(np.float32)


def uniform(low: float, high: float) -> Draw:
    """Values from low to high, float32."""
    return lambda rng, shape: rng.uniform(low, high, shape).astype(np.float32)


def below(limit: int) -> Draw:
    """Any of 0 to limit - 1, int64."""
    return lambda rng, shape: rng.integers(0, limit, shape)
