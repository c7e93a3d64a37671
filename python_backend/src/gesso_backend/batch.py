"""Which calls run next, together. The policy is the one replaceable object of the scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gesso_backend.bundle import Bundle
from gesso_backend.calls import Arrays, Call
from gesso_backend.denoise import Driven
from gesso_backend.job import Job
from gesso_backend.settings import Settings


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


class Policy(Protocol):
    def next(self, ready: Iterable[Task]) -> Batch | None:
        """Choose from the tasks that wait for a network; None when there is none."""


class FifoPolicy:
    """Calls are grouped by network and shape. The groups take turns, so no shape and no phase waits for ever; within a
    group the oldest requests go first, as many as the row cap allows, so that requests finish in the order they came.
    """

    def __init__(self, caps: Mapping[str, int]) -> None:
        """caps: most rows in one call of each network. A single call larger than its cap still runs, alone."""
        self._caps = caps
        self._line: list[tuple[object, ...]] = []  # the groups, next first

    @classmethod
    def of(cls, settings: Settings, bundle: Bundle) -> FifoPolicy:
        rows, vae_rows = settings.max_rows, settings.max_vae_rows
        return cls({name: vae_rows if name.startswith("vae_") else rows for name in bundle.networks})

    def next(self, ready: Iterable[Task]) -> Batch | None:
        groups: dict[tuple[object, ...], list[Task]] = {}
        for task in sorted(ready, key=lambda task: task.arrival):
            groups.setdefault(task.call.key, []).append(task)
        if not groups:
            return None
        # A group that appears stands at the end, however often it comes and goes: newcomers, each with a call or two
        # of its own shape, cannot hold up those who run.
        self._line = [key for key in self._line if key in groups]
        self._line += [key for key in groups if key not in self._line]
        key = self._line.pop(0)
        self._line.append(key)
        chosen, rows = [groups[key][0]], groups[key][0].call.rows
        for task in groups[key][1:]:
            if rows + task.call.rows > self._caps[task.call.network]:
                break
            chosen.append(task)
            rows += task.call.rows
        return Batch(chosen)
