"""One request at a time, start to end: the reference that batching is compared with."""

from __future__ import annotations

import queue
from collections.abc import Sequence

from gesso_backend.arrays import Arrays, Pixels
from gesso_backend.kinds.kind import Life
from gesso_backend.serving.batch import Batch, Branch
from gesso_backend.serving.loop import WAKE_SECONDS, Loop
from gesso_backend.serving.run import Run


class PlainLoop(Loop):
    def run(self) -> None:
        while True:
            self.pulse = self._clock()
            try:
                run = self._inbox.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                continue
            if run is None:
                return
            if run.job.take():
                self._serve(run)

    def _serve(self, run: Run) -> None:
        try:
            self._drive(Branch(run, run.kind.life(run.prepared), 0))
            run.finish()
        except Exception as error:
            self._fail(run, error)

    def _drive(self, branch: Branch) -> None:
        """A life to its end, and those that follow from it one after another."""
        for index, life in enumerate(self._follow(branch, self._result(branch))):
            self._drive(Branch(branch.run, life, index))

    def _result(self, branch: Branch) -> Pixels | Sequence[Life]:
        answer: Arrays | None = None
        try:
            while True:
                cause = branch.run.job.cause
                if cause is not None:
                    self._close(branch)
                    raise cause
                branch.call = self._next_call(branch, answer)
                answer = self._call(Batch([branch]))
                self._store(branch.call, answer)
        except StopIteration as stop:
            result: Pixels | Sequence[Life] = stop.value
            return result
