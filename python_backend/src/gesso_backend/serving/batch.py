"""Calls that run as one: their rows go in one after another, and each gets its own back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.call import Call
from gesso_backend.kinds.kind import Life
from gesso_backend.serving.run import Run


@dataclass(eq=False)
class Branch:
    """One life of a run, waiting for the answer to `call`. The loop owns it."""

    run: Run
    life: Life
    index: int  # which picture it paints, if it paints one
    arrival: int = 0
    call: Call = field(default_factory=lambda: Call("", {}))  # until its first


@dataclass(frozen=True)
class Batch:
    """Calls with equal keys, to be run as one."""

    branches: Sequence[Branch]

    @property
    def network(self) -> str:
        return self.branches[0].call.network

    @property
    def variant(self) -> Hashable:
        return self.branches[0].call.variant

    @property
    def step(self) -> bool:
        return self.branches[0].call.step

    @property
    def rows(self) -> int:
        return sum(branch.call.rows for branch in self.branches)

    def inputs(self) -> Arrays:
        """The rows of all calls, one after another."""
        calls = [branch.call.inputs for branch in self.branches]
        if len(calls) == 1:
            return calls[0]
        return {name: np.concatenate([inputs[name] for inputs in calls]) for name in calls[0]}

    def split(self, outputs: Arrays) -> list[Arrays]:
        """Each call's own rows of the outputs."""
        answers: list[Arrays] = []
        start = 0
        for branch in self.branches:
            rows = slice(start, start + branch.call.rows)
            answers.append({name: array[rows] for name, array in outputs.items()})
            start += branch.call.rows
        return answers
