"""Who runs next: the order of requests, and which of their calls share a batch.

A policy knows of a request what `Candidate` says and no more, so the load simulator (benchmarks) runs the very code
that serves. It remembers only what the last call was.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from gesso_backend.call import Call
from gesso_backend.kinds.kind import Work
from gesso_backend.serving.priority import due

PATIENCE = 12.0  # chosen with `python -m benchmarks simulate`: docs/benchmarks.md
REQUEST_BATCH = 8  # requests


class Candidate(Protocol):
    """What a policy knows of a request."""

    @property
    def priority(self) -> str:
        """One of priority.CLASS_SECONDS."""

    @property
    def submitted(self) -> float:
        """When it came, in seconds of some clock."""

    @property
    def work(self) -> Work:
        """All of it, as it was when it came."""

    @property
    def calls_left(self) -> int:
        """Of `work.calls`, those that have not run."""

    @property
    def call_seconds(self) -> float:
        """What one of them takes, run alone."""


class Waiting(Protocol):
    """A branch of a request, waiting for `call`."""

    @property
    def run(self) -> Candidate: ...

    @property
    def call(self) -> Call: ...

    @property
    def arrival(self) -> int:
        """Branches are numbered as they appear."""


T = TypeVar("T", bound=Waiting)


class Caps(Protocol):
    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        """Most rows worth putting into one call of a network, on pictures of so many pixels (or latents).

        crowded: for throughput; else a smaller batch whose calls are shorter, where that costs little of it.
        """


class Policy(Protocol):
    def next(self, ready: Iterable[T]) -> Sequence[T]:
        """The branches whose calls, all with equal keys, run as the next batch; empty when none is ready."""


class Ordered:
    """Requests in order of when they are due, and step-level batches of those that come first.

    A request is due `patience` times its remaining work after it came. With patience 0 that is first come, first
    served; with much of it, shortest remaining work first. In between the short overtake the long, but nothing that
    comes after a request's own due time overtakes it: no request starves.

    A batch is as full as pays (`caps`), and leaner while all who wait fit into a full one. Requests that the next step
    has room for get what they need for it first, and what follows their last step is done first; but of such calls at
    most one runs between two steps, so that those who run are held up by no more than that.
    """

    def __init__(self, caps: Caps, patience: float) -> None:
        """patience: seconds of grace for each second of work."""
        self._caps = caps
        self._patience = patience
        self._stepped = True  # the last call was a step

    def next(self, ready: Iterable[T]) -> Sequence[T]:
        order = sorted(ready, key=self._due)
        if not order:
            return []
        members = self._members(order)
        stepping = [branch for branch in members if branch.call.step]
        others = [branch for branch in members if not branch.call.step]
        self._stepped = not (others and (self._stepped or not stepping))
        return self._batch(stepping if self._stepped else others)

    def _due(self, branch: Waiting) -> tuple[float, int]:
        run = branch.run
        grace = self._patience * run.calls_left * run.call_seconds
        return due(run.priority, run.submitted) + grace, branch.arrival

    def _members(self, order: Sequence[T]) -> list[T]:
        """Those who would fill the first one's next step, as many as its cap allows, wherever they are on their way."""
        work = order[0].run.work
        same = [branch for branch in order if branch.run.work.shape == work.shape]
        rows = [branch.run.work.rows if branch.run.calls_left else 0 for branch in same]
        full = self._caps.cap(work.network, work.pixels)
        room = full if sum(rows) > full else self._caps.cap(work.network, work.pixels, crowded=False)
        ends = list(itertools.accumulate(rows))
        return [branch for branch, end in zip(same, ends, strict=True) if end <= max(room, rows[0])]

    def _batch(self, candidates: Sequence[T]) -> list[T]:
        """The first, and in order those whose calls go with its own, up to the cap; one above it still runs alone."""
        first = candidates[0]
        room = self._caps.cap(first.call.network, first.call.pixels) - first.call.rows
        batch = [first]
        for branch in candidates[1:]:
            if branch.call.key == first.call.key:
                if branch.call.rows > room:
                    break
                batch.append(branch)
                room -= branch.call.rows
        return batch


class RequestBatches:
    """Whole requests in batches, as servers without step-level batching do it; to compare with.

    The oldest few start together, are finished together when the last of them has had its last step, and nothing else
    starts until they have ended. (Kinder than a pipeline's batch, which would want one number of steps for all.)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._inner = Ordered(Unlimited(), patience=0)
        self._batch: list[Candidate] = []

    def next(self, ready: Iterable[T]) -> Sequence[T]:
        branches = sorted(ready, key=lambda branch: branch.arrival)
        members = [branch for branch in branches if branch.run in self._batch]
        if not members:
            self._batch = list({id(branch.run): branch.run for branch in branches}.values())[: self._size]
            members = [branch for branch in branches if branch.run in self._batch]
        stepping = [branch for branch in members if branch.run.calls_left]
        return self._inner.next(stepping or members)


class Unlimited:
    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        return sys.maxsize


def make(name: str, caps: Caps) -> Policy:
    """A policy by its name. srpt: shortest remaining work first, with aging; fifo: first come, first served."""
    if name == "request-batches":
        return RequestBatches(REQUEST_BATCH)
    return Ordered(caps, {"srpt": PATIENCE, "fifo": 0.0}[name])
