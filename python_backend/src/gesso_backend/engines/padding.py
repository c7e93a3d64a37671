"""Batches of fixed sizes, so that on a GPU too a row's bytes do not depend on the other rows.

A GPU library may choose another kernel, and with it another order of additions, for another batch size. So a batch is
filled up with copies of its first row to one of a few sizes, by default to a single one. What is left is the row's
place in the batch, and, with several sizes, the size. Both are tried before a shape is first answered: one row stands
in all places of every size, and a size whose answer differs in any bit is not used. If even the places of one size
differ, the rows of that shape run one at a time, always in the first place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import Outputs
from gesso_backend.model.bundle import NetworkSpec
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

# Where the settings leave the most rows to the profile, which then finds these to pay: less costs as much.
DEFAULT_ROWS, DEFAULT_VAE_ROWS = 8, 1


class FixedBatchEngine(Protocol):
    """An engine that runs exactly as many rows as it is told."""

    def run(self, inputs: Arrays, size: int) -> Outputs:
        """Outputs [size, ...]. The rows after those of `inputs` are copies of its first."""

    def most_rows(self, inputs: Arrays) -> int | None:
        """Most rows of this shape in a call; None: no bound. Raises NoProfile for a shape it cannot run."""


@dataclass(frozen=True)
class BatchSizes:
    """How the rows of one shape are run."""

    sizes: tuple[int, ...]  # ascending
    together: bool  # else one row a call


class PaddedEngine:
    """The engine contract over a `FixedBatchEngine`: pads, splits what is larger than the largest size, unpads."""

    def __init__(self, network: str, engine: FixedBatchEngine, sizes: Sequence[int]) -> None:
        """sizes: batch sizes that may run; a row's bytes are the same in all that are used."""
        self._network = network
        self._engine = engine
        self._sizes = tuple(sorted(set(sizes)))
        self._batch_sizes: dict[tuple[object, ...], BatchSizes] = {}

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> Outputs:
        batches = self._sizes_of(inputs)
        rows = len(next(iter(inputs.values())))
        step = batches.sizes[-1] if batches.together else 1
        parts = []
        for start in range(0, rows, step):
            part = {name: array[start : start + step] for name, array in inputs.items()} if rows > step else inputs
            count = min(step, rows - start)
            size = next(size for size in batches.sizes if size >= count)
            outputs = self._engine.run(part, size)
            parts.append({name: array[:count] for name, array in outputs.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _sizes_of(self, inputs: Arrays) -> BatchSizes:
        key = tuple((name, array.shape[1:]) for name, array in sorted(inputs.items()))
        if key not in self._batch_sizes:
            self._batch_sizes[key] = self._try(inputs)
        return self._batch_sizes[key]

    def _try(self, inputs: Arrays) -> BatchSizes:
        """Run one row in all places of every size, and keep the sizes that agree with the largest."""
        most = self._engine.most_rows(inputs)
        sizes = tuple(sorted({size if most is None else min(size, most) for size in self._sizes}))
        if sizes == (1,):
            return BatchSizes(sizes, together=True)
        row = {name: _rough(array[:1]) for name, array in inputs.items()}
        answers = {size: self._engine.run(row, size) for size in sizes}
        expected = _bits(answers[sizes[-1]], 0)
        if not _all_rows_are(answers[sizes[-1]], sizes[-1], expected):
            shapes = {name: array.shape[1:] for name, array in inputs.items()}
            log.warning(
                "%s: a row's bytes depend on its place in a batch of %d at %s; rows of this shape run one at a time",
                self._network, sizes[-1], shapes,
            )  # fmt: skip
            return BatchSizes(sizes[:1], together=False)
        agreeing = tuple(size for size in sizes if _all_rows_are(answers[size], size, expected))
        if agreeing != sizes:
            dropped = [size for size in sizes if size not in agreeing]
            log.warning(
                "%s: batches of %s give other bytes than of %d and are not used", self._network, dropped, sizes[-1]
            )
        return BatchSizes(agreeing, together=True)


def sizes_for(spec: NetworkSpec, settings: Settings) -> tuple[int, ...]:
    """The sizes of a network's batches: the most rows of a call, and below that what the settings allow."""
    if spec.sees == "pixels":
        cap = settings.max_vae_rows or DEFAULT_VAE_ROWS
    else:
        cap = settings.max_rows or max(settings.sizes, default=DEFAULT_ROWS)
    return (*(size for size in settings.sizes if size < cap), cap)


def filled(array: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """The array with copies of its first row after its own, `size` in all."""
    if len(array) == size:
        return array
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])


def _rough(row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The row with noise on it, numbers that stand alone as they are: zeros, say of a profile, would prove nothing."""
    if row.ndim < 2 or row.dtype.kind != "f":
        return row
    noisy: np.ndarray[Any, Any] = row + np.random.default_rng(0).standard_normal(row.shape).astype(row.dtype)
    return noisy


def _bits(outputs: Outputs, row: int) -> dict[str, bytes]:
    return {name: array[row].tobytes() for name, array in outputs.items()}


def _all_rows_are(outputs: Outputs, size: int, expected: dict[str, bytes]) -> bool:
    return all(_bits(outputs, row) == expected for row in range(size))
