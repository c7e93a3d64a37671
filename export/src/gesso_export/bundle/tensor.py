"""Inputs and outputs of networks: type and axes. The one home of the names of free axes, the same in every network.

Who has to know what a network works on asks for these names: one that has HEIGHT works on pictures, one that has only
LATENT_HEIGHT on latents. Whatever the precision of a network, its inputs and outputs are float32 (token ids int64), and
their first axis is the row of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BATCH = "batch"
TOKENS = "tokens"  # of a prompt
LATENT_HEIGHT, LATENT_WIDTH = "latent_height", "latent_width"
HEIGHT, WIDTH = "height", "width"  # in pixels
AXES = (BATCH, TOKENS, LATENT_HEIGHT, LATENT_WIDTH, HEIGHT, WIDTH)

Axis = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network; an axis is a size or the name of a free axis."""

    dtype: str
    shape: tuple[Axis, ...]

    def at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at these sizes of the free axes."""
        return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in self.shape)


def floats(*axes: Axis) -> TensorSpec:
    return TensorSpec("float32", (BATCH, *axes))


def ids(*axes: Axis) -> TensorSpec:
    return TensorSpec("int64", (BATCH, *axes))


def latents(channels: int) -> TensorSpec:
    return floats(channels, LATENT_HEIGHT, LATENT_WIDTH)


def pixels(channels: int) -> TensorSpec:
    return floats(channels, HEIGHT, WIDTH)


def free_axes(tensors: Iterable[TensorSpec]) -> set[str]:
    """The names of the free axes that these have."""
    return {axis for tensor in tensors for axis in tensor.shape if isinstance(axis, str)}
