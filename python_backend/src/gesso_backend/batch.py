"""Calls that run as one: their rows go in one after another, and each gets its own back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gesso_backend.calls import Arrays, Call
from gesso_backend.denoise import Driven
from gesso_backend.job import Job


@dataclass(eq=False)
class Task:
    """One generator of a job, waiting for the answer to `call`. The loop owns it."""

    job: Job
    generator: Driven
    index: int | None  # which image it samples; None: it encodes the conditions
    arrival: int
    call: Call


@dataclass(frozen=True)
class Batch:
    """Calls with equal keys, to be run as one."""

    tasks: Sequence[Task]

    @property
    def network(self) -> str:
        return self.tasks[0].call.network

    @property
    def rows(self) -> int:
        return sum(task.call.rows for task in self.tasks)

    def inputs(self) -> Arrays:
        """The rows of all calls, one after another."""
        calls = [task.call.inputs for task in self.tasks]
        if len(calls) == 1:
            return calls[0]
        return {name: np.concatenate([inputs[name] for inputs in calls]) for name in calls[0]}

    def split(self, outputs: Arrays) -> list[Arrays]:
        """Each call's own rows of the outputs."""
        answers: list[Arrays] = []
        start = 0
        for task in self.tasks:
            rows = slice(start, start + task.call.rows)
            answers.append({name: array[rows] for name, array in outputs.items()})
            start += task.call.rows
        return answers
