"""The loop: one thread that owns the engines and moves every running request from call to call.

`BatchedLoop` is what serves; `PlainLoop` runs one request after another and is what it is compared with. Both drive the
same lives and know nothing of what is in them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from gesso_backend.arrays import Arrays, Pixels
from gesso_backend.call import Call
from gesso_backend.engines.engine import EngineSet
from gesso_backend.errors import InternalError, RequestError
from gesso_backend.kinds.kind import Life
from gesso_backend.serving.batch import Batch, Branch
from gesso_backend.serving.cache import Cache
from gesso_backend.serving.metrics import Metrics
from gesso_backend.serving.outbox import Outbox
from gesso_backend.serving.run import Run

log = logging.getLogger(__name__)

WAKE_SECONDS = 1.0  # an idle loop shows that it lives this often


class Loop(ABC):
    """What both loops share: an inbox, a thread, a pulse, the timed call of an engine, and the cache of answers."""

    def __init__(
        self,
        engines: EngineSet,
        outbox: Outbox,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        cache_bytes: int = 0,
    ) -> None:
        """cache_bytes: of answers kept for calls with the same content."""
        self.pulse = clock()  # when the loop was last seen between two network calls
        self._engines = engines
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._cache: Cache[Arrays] = Cache(cache_bytes)
        self._inbox: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._guarded_run, name="gesso-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, run: Run) -> None:
        """Hand over a run. From any thread."""
        self._inbox.put(run)

    def close(self) -> None:
        """Finish what was submitted, then stop the thread."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @abstractmethod
    def run(self) -> None:
        """Serve until closed."""

    def _guarded_run(self) -> None:
        try:
            self.run()
        except BaseException:  # a dead loop is seen by the watch, which fails what is left
            log.exception("the loop died")
            raise

    def _next_call(self, branch: Branch, answer: Arrays | None) -> Call:
        """Send a life its answer and go on to its next call that no cache answers. Raises StopIteration at its end."""
        while True:
            item = branch.life.send(answer)  # type: ignore[arg-type]
            if isinstance(item, Call):
                answer = self._cached(branch.run, item)
                if answer is None:
                    return item
            else:
                branch.run.emit(item)
                answer = None

    @staticmethod
    def _follow(branch: Branch, result: Pixels | Sequence[Life]) -> Sequence[Life]:
        """What follows from a life that has ended: a picture is on its way, or others are to be started."""
        if isinstance(result, np.ndarray):
            branch.run.painted(branch.index, result)
            return ()
        return result

    @staticmethod
    def _close(branch: Branch) -> None:
        """End a life before its time. What it raises then is its own affair: its request has a reply already."""
        try:
            branch.life.close()
        except Exception:
            log.exception("request %s: its life did not close", branch.run.job.id)

    @staticmethod
    def _fail(run: Run, error: Exception) -> None:
        if run.job.cause is None and isinstance(error, RequestError):
            log.warning("request %s failed: %s", run.job.id, error)
        run.job.fail(error)

    def _call(self, batch: Batch) -> Arrays:
        """Run one network and account for it. Raises whatever the engine raises."""
        for branch in batch.branches:
            branch.run.start()
        rows = batch.rows
        started = self.pulse = self._clock()
        outputs = self._engines.engine(batch.network, batch.variant)(**batch.inputs())
        seconds = self._clock() - started
        short = [name for name, array in outputs.items() if len(array) != rows]
        if short:
            raise InternalError(f"{batch.network} answered {len(outputs[short[0]])} rows of {short[0]} for {rows}")
        for branch in batch.branches:
            branch.run.called(batch.network, seconds, rows, batch.step)
        if batch.step:
            self._outbox.post(lambda: self._metrics.step(seconds, rows))
        return outputs

    def _cached(self, run: Run, call: Call) -> Arrays | None:
        """The answer to a call, if it was given before."""
        answer = None if call.cache_key is None else self._cache.get(call.cache_key)
        if answer is not None:
            run.hit(call.network)
        return answer

    def _store(self, call: Call, answer: Arrays) -> None:
        if call.cache_key is not None:  # copied: an answer is a part of its batch, which would stay in memory with it
            copied = {name: array.copy() for name, array in answer.items()}
            self._cache.put(call.cache_key, copied, sum(array.nbytes for array in copied.values()))
