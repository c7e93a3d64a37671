"""Step-level batching: rows of different requests share a call whenever network and shapes agree."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from collections.abc import Callable, Sequence

from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import EngineSet
from gesso_backend.kinds.kind import Life
from gesso_backend.serving.batch import Batch, Branch
from gesso_backend.serving.loop import WAKE_SECONDS, Loop
from gesso_backend.serving.metrics import Metrics
from gesso_backend.serving.outbox import Outbox
from gesso_backend.serving.policy import Policy
from gesso_backend.serving.run import Run

log = logging.getLogger(__name__)


class BatchedLoop(Loop):
    def __init__(
        self,
        engines: EngineSet,
        outbox: Outbox,
        metrics: Metrics,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(engines, outbox, metrics, clock, cache_bytes)
        self._policy = policy
        self._ready: list[Branch] = []
        self._closing = False
        self._arrivals = itertools.count()

    def run(self) -> None:
        while self._receive():
            self._drop_aborted()
            branches = self._policy.next(self._ready)
            if branches:
                batch = Batch(branches)
                self._finish(batch, self._run(batch))

    def _receive(self) -> bool:
        """Take in new runs, waiting only when there is nothing to do. False when closed and done."""
        while True:
            self.pulse = self._clock()
            try:
                busy = self._ready or self._closing  # then without even a lock's round: this is between two calls
                run = self._inbox.get_nowait() if busy else self._inbox.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                if self._ready or self._closing:
                    return bool(self._ready)
                continue
            if run is None:
                self._closing = True
            elif run.job.take():
                self._begin(run)

    def _drop_aborted(self) -> None:
        running = []
        for branch in self._ready:
            cause = branch.run.job.cause  # read once: another thread may set it at any moment
            if cause is None:
                running.append(branch)
            else:
                self._close(branch)
                branch.run.job.end(cause)
        self._ready = running

    def _run(self, batch: Batch) -> list[Arrays | Exception]:
        """The answer to each branch. If the batch fails, each call is tried alone, so that only the bad one fails."""
        try:
            return [*batch.split(self._call(batch))]
        except Exception as error:
            if len(batch.branches) == 1:
                log.exception("%s failed", batch.network)
                return [error]
            log.warning("%s failed for %d requests; trying each alone", batch.network, len(batch.branches))
            return [answer for branch in batch.branches for answer in self._run(Batch([branch]))]

    def _finish(self, batch: Batch, answers: list[Arrays | Exception]) -> None:
        self._ready = [branch for branch in self._ready if branch not in batch.branches]
        for branch, answer in zip(batch.branches, answers, strict=True):
            if isinstance(answer, Exception):
                self._close(branch)
                branch.run.job.fail(answer)
            else:
                self._store(branch.call, answer)
                self._advance(branch, answer)

    def _begin(self, run: Run) -> None:
        try:
            life = run.kind.life(run.prepared)
        except Exception as error:  # of a kind that fails before its first call
            self._fail(run, error)
        else:
            self._start(run, life, 0)

    def _start(self, run: Run, life: Life, index: int) -> None:
        run.branches += 1
        self._advance(Branch(run, life, index, next(self._arrivals)), None)

    def _advance(self, branch: Branch, answer: Arrays | None) -> None:
        """Go on to the branch's next call, or, when its life has ended, to what follows from it."""
        try:
            try:
                branch.call = self._next_call(branch, answer)
                self._ready.append(branch)
            except StopIteration as stop:
                self._ended(branch, self._follow(branch, stop.value))
        except Exception as error:
            self._fail(branch.run, error)

    def _ended(self, branch: Branch, lives: Sequence[Life]) -> None:
        run = branch.run
        for index, life in enumerate(lives):
            self._start(run, life, index)
        run.branches -= 1
        if run.branches == 0:
            run.finish()
