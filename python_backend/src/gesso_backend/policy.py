"""Who runs next: the order of requests, and which of their calls share a batch.

A policy only reads. What it may know of a request is `Job` below, so the load simulator (benchmarks/simulate.py) runs
the very code that serves.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from gesso_backend.calls import Call

# How much later a request of each class is due: strict in practice, yet nothing waits for ever.
CLASS_SECONDS = {"interactive": 0.0, "normal": 300.0, "background": 1200.0}
NORMAL = "normal"
PATIENCE = 12.0  # chosen with benchmarks/simulate.py: docs/benchmarks.md
REQUEST_BATCH = 8  # requests


class Job(Protocol):
    """What a policy knows of a request."""

    @property
    def priority(self) -> str:
        """One of CLASS_SECONDS."""

    @property
    def submitted(self) -> float:
        """When it came, in seconds of some clock."""

    @property
    def steps_left(self) -> int:
        """Denoiser calls of all its pictures that have not run."""

    @property
    def step_seconds(self) -> float:
        """What one of them takes, run alone."""

    @property
    def step_rows(self) -> int:
        """Rows of one of them."""

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(h, w) of its latents."""


class Waiting(Protocol):
    """A task: one picture of a job, or its prompt and image, waiting for `call`."""

    @property
    def job(self) -> Job: ...

    @property
    def call(self) -> Call: ...

    @property
    def arrival(self) -> int:
        """Tasks are numbered as they appear."""


T = TypeVar("T", bound=Waiting)


class Caps(Protocol):
    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        """Most rows worth putting into one call of a network, on pictures of so many pixels (or latents).

        crowded: for throughput; else a smaller batch whose calls are shorter, where that costs little of it.
        """


class Policy(Protocol):
    def next(self, ready: Iterable[T]) -> Sequence[T]:
        """The tasks whose calls, all with equal keys, run as the next batch; empty when none is ready."""


class Ordered:
    """Requests in order of when they are due, and step-level batches of those that come first.

    A request is due `patience` times its remaining work after it came. With patience 0 that is first come, first
    served; with much of it, shortest remaining work first. In between the short overtake the long, but nothing that
    comes after a request's own due time overtakes it: no request starves.

    A batch is as full as pays (`caps`), and leaner while all who wait fit into a full one. Requests that the next step
    has room for get their prompt and picture encoded first, and finished ones are decoded first; but of such calls at
    most one runs between two steps, so that those who run are held up by no more than that.
    """

    def __init__(self, caps: Caps, denoiser: str, patience: float) -> None:
        """denoiser: the network of a step. patience: seconds of grace for each second of work."""
        self._caps = caps
        self._denoiser = denoiser
        self._patience = patience
        self._stepped = True  # the last call was a step

    def next(self, ready: Iterable[T]) -> Sequence[T]:
        order = sorted(ready, key=self._due)
        if not order:
            return []
        crew = self._crew(order)
        steps = [task for task in crew if task.call.network == self._denoiser]
        others = [task for task in crew if task.call.network != self._denoiser]
        self._stepped = not (others and (self._stepped or not steps))
        return self._batch(steps[0], steps) if self._stepped else self._batch(others[0], others)

    def _due(self, task: Waiting) -> tuple[float, int]:
        job = task.job
        grace = self._patience * job.steps_left * job.step_seconds
        return job.submitted + CLASS_SECONDS[job.priority] + grace, task.arrival

    def _crew(self, order: Sequence[T]) -> list[T]:
        """Those who would fill the first one's next step, as many as its cap allows, wherever they are on their way."""
        shape = order[0].job.latent_shape
        same = [task for task in order if task.job.latent_shape == shape]
        rows = [task.job.step_rows if task.job.steps_left else 0 for task in same]
        full = self._caps.cap(self._denoiser, shape[0] * shape[1])
        room = full if sum(rows) > full else self._caps.cap(self._denoiser, shape[0] * shape[1], crowded=False)
        ends = list(itertools.accumulate(rows))
        return [task for task, end in zip(same, ends, strict=True) if end <= max(room, rows[0])]

    def _batch(self, first: T, candidates: Sequence[T]) -> list[T]:
        """`first`, and in order those whose calls go with its own, up to the cap; one above it still runs alone."""
        room = self._caps.cap(first.call.network, first.call.pixels) - first.call.rows
        batch = [first]
        for task in candidates:
            if task is not first and task.call.key == first.call.key:
                if task.call.rows > room:
                    break
                batch.append(task)
                room -= task.call.rows
        return batch


class RequestBatches:
    """Whole requests in batches, as servers without step-level batching do it; to compare with.

    The oldest few start together, are decoded together when the last of them is denoised, and nothing else starts until
    they have ended. (Kinder than a pipeline's batch, which would want one number of steps for all.)
    """

    def __init__(self, size: int, denoiser: str) -> None:
        self._size = size
        self._inner = Ordered(Unlimited(), denoiser, patience=0)
        self._members: list[Job] = []

    def next(self, ready: Iterable[T]) -> Sequence[T]:
        tasks = sorted(ready, key=lambda task: task.arrival)
        members = [task for task in tasks if task.job in self._members]
        if not members:
            self._members = list({id(task.job): task.job for task in tasks}.values())[: self._size]
            members = [task for task in tasks if task.job in self._members]
        denoising = [task for task in members if task.job.steps_left]
        return self._inner.next(denoising or members)


class Unlimited:
    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        return sys.maxsize


POLICIES = ("srpt", "fifo", "request-batches")


def make(name: str, caps: Caps, denoiser: str) -> Policy:
    """A policy by its name. srpt: shortest remaining work first, with aging; fifo: first come, first served."""
    if name == "request-batches":
        return RequestBatches(REQUEST_BATCH, denoiser)
    return Ordered(caps, denoiser, {"srpt": PATIENCE, "fifo": 0.0}[name])
