"""What the life of a request asks for: calls of networks, which somebody else runs."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from gesso_backend.arrays import Arrays, digest


@dataclass(frozen=True)
class Call:
    """One network, on some rows (the first axis of every input).

    content: a digest of the inputs, where the answer is worth caching. step: it is part of a step, the work that a
    request has most of and that policies count. variant: which form of the network, where it has several (a set of
    adapters); calls of different variants share no batch.
    """

    network: str
    inputs: Arrays
    content: bytes | None = None
    step: bool = False
    variant: Hashable = None

    @classmethod
    def cached(cls, network: str, inputs: Arrays) -> Call:
        """One whose answer is worth caching. The inputs are read: for small ones."""
        return cls(network, inputs, digest(inputs))

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def pixels(self) -> int:
        """How large a picture (or its latents) the network sees: the last two axes of a four-axis input, else 1."""
        return max((array.shape[2] * array.shape[3] for array in self.inputs.values() if array.ndim == 4), default=1)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Calls with equal keys can run as one batch: same network, variant, and shapes beyond the row axis."""
        shapes = ((name, array.shape[1:]) for name, array in sorted(self.inputs.items()))
        return (self.network, self.variant, *shapes)

    @property
    def cache_key(self) -> Hashable:
        """Under which the answer is cached; None where it is not."""
        return None if self.content is None else (self.network, self.variant, self.content)
