"""Gaussian noise, bit for bit in the order that torch's CPU generator would draw it.

A request's picture is a function of its seed, and people compare seeds with diffusers. So the stream is torch's:
mt19937 seeded with the low 32 bits of the seed, 24-bit uniforms and Box-Muller in blocks of 16 for draws of 16 or more
values, and pairs of 53-bit uniforms for smaller ones (ATen/native/cpu/DistributionTemplates.h `normal_fill`,
ATen/core/DistributionsHelper.h `normal_distribution<double>`). The words are the same bit for bit; values agree with
torch to 1e-6, which is how far torch's own vectorised logarithm and sine are from exact.
"""

import math

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16  # torch draws this many values at once: eight radii, then eight angles
_TWO_PI = np.float32(2 * math.pi)


class NoiseStream:
    """The normal draws of one request; what was drawn before decides what comes next.

    `NoiseStream(seed).normal(shape)`, called again and again, equals
    `torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))`. As in torch, seeds that agree modulo 2**32
    give the same stream.
    """

    def __init__(self, seed: int) -> None:
        # RandomState is numpy's frozen legacy generator: seeding and raw words are promised never to change.
        self._mt19937 = np.random.RandomState(seed & 0xFFFFFFFF)
        self._spare: float | None = None  # the second value of the last small pair; large draws leave it waiting

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw float32 values of mean 0 and standard deviation 1 in `shape`; an empty shape is one value."""
        size = math.prod(shape)
        if size < _BLOCK:
            values = np.array([self._one() for _ in range(size)], np.float32)
        else:
            uniforms = self._uniforms(size)
            whole = size - size % _BLOCK
            values = np.empty(size, np.float32)
            values[:whole] = _box_muller(uniforms[:whole])
            if whole != size:  # torch draws the last 16 values afresh rather than part of a block
                values[-_BLOCK:] = _box_muller(self._uniforms(_BLOCK))
        return values.reshape(shape)

    def _words(self, count: int) -> NDArray[np.uint32]:
        return self._mt19937.randint(0, 2**32, size=count, dtype=np.uint32)

    def _uniforms(self, count: int) -> NDArray[np.float32]:
        return (self._words(count) & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)

    def _one(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        angle, radius = (self._double() for _ in range(2))
        radius = math.sqrt(-2 * math.log1p(-radius))
        angle *= 2 * math.pi
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)

    def _double(self) -> float:
        high, low = self._words(2).tolist()
        return float(((high << 32 | low) & (2**53 - 1)) * 2.0**-53)


def _box_muller(uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn float32 uniforms [16 k] into float32 normals [16 k], each block of 16 on its own."""
    pairs = uniforms.reshape(-1, 2, _BLOCK // 2)
    # The angle is rounded to float32 as torch does; the rest is float64, so that every machine gives the same bytes.
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0].astype(np.float64)))
    angle = (pairs[:, 1] * _TWO_PI).astype(np.float64)
    normals: NDArray[np.float64] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normals.astype(np.float32).reshape(-1)
