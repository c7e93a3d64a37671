"""The loop: one thread that owns the engines and moves every running request a step at a time.

`BatchedLoop` is what serves; `PlainLoop` runs one request after another and is what it is compared with.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

from gesso_backend.batch import Batch, Task
from gesso_backend.bundle import Bundle
from gesso_backend.cache import Cache
from gesso_backend.calls import Arrays, Call
from gesso_backend.denoise import Conditions, Driven, Preview, Progress, encode, sample
from gesso_backend.engines import Engine
from gesso_backend.errors import InternalError, as_request_error
from gesso_backend.job import Job
from gesso_backend.metrics import Metrics
from gesso_backend.outbox import Outbox
from gesso_backend.policy import Policy
from gesso_backend.profile import Profile

log = logging.getLogger(__name__)

WAKE_SECONDS = 1.0  # an idle loop shows that it lives this often

T = TypeVar("T")


class Loop(ABC):
    """What both loops share: an inbox, a thread, a pulse, and the timed call of an engine."""

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        outbox: Outbox,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        cache_bytes: int = 0,
    ) -> None:
        """cache_bytes: of answers kept for calls with the same content."""
        self.pulse = clock()  # when the loop was last seen between two network calls
        self._bundle = bundle
        self._engines = engines
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._cache: Cache[Arrays] = Cache(cache_bytes)
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._guarded_run, name="gesso-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Hand over a prepared job. From any thread."""
        self._inbox.put(job)

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
        except BaseException:  # a dead loop is seen by the service's watch, which fails what is left
            log.exception("the loop died")
            raise

    def _call(self, network: str, inputs: Arrays, jobs: list[Job], rows: int) -> Arrays:
        """Run one network and account for it. Raises whatever the engine raises."""
        for job in jobs:
            job.start()
        started = self.pulse = self._clock()
        outputs = self._engines[network](**inputs)
        seconds = self._clock() - started
        short = [name for name, array in outputs.items() if len(array) != rows]
        if short:
            raise InternalError(f"{network} answered {len(outputs[short[0]])} rows of {short[0]} for {rows}")
        for job in jobs:
            job.spent(network, seconds, rows if network == self._bundle.kind.denoiser else 0)
        if network == self._bundle.kind.denoiser:
            self._outbox.post(lambda: self._metrics.step(seconds, rows))
        return outputs

    def _recall(self, job: Job, call: Call) -> Arrays | None:
        """The answer to a call, if it was given before."""
        if call.content is None:
            return None
        answer = self._cache.get((call.network, call.content))
        if answer is not None:
            job.recalled(call.network)
        return answer

    def _remember(self, call: Call, answer: Arrays) -> None:
        if call.content is not None:  # copied: an answer is a part of its batch, which would stay in memory with it
            kept = {name: array.copy() for name, array in answer.items()}
            self._cache.put((call.network, call.content), kept, sum(array.nbytes for array in kept.values()))


class BatchedLoop(Loop):
    """Step-level batching: rows of different requests share a call whenever network and shape agree."""

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        outbox: Outbox,
        metrics: Metrics,
        policy: Policy,
        profile: Profile | None = None,
        clock: Callable[[], float] = time.monotonic,
        cache_bytes: int = 0,
    ) -> None:
        """profile: what calls take, for a policy that asks how much work is left."""
        super().__init__(bundle, engines, outbox, metrics, clock, cache_bytes)
        self._policy = policy
        self._profile = profile or Profile()
        self._ready: list[Task] = []
        self._closing = False
        self._arrivals = itertools.count()

    def run(self) -> None:
        while self._receive():
            self._drop_aborted()
            tasks = self._policy.next(self._ready)
            if tasks:
                batch = Batch(tasks)
                self._finish(batch, self._run(batch))

    def _receive(self) -> bool:
        """Take in new jobs, waiting only when there is nothing to run. False when closed and done."""
        while True:
            self.pulse = self._clock()
            try:
                busy = self._ready or self._closing  # then without even a lock's round: this is between two steps
                job = self._inbox.get_nowait() if busy else self._inbox.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                if self._ready or self._closing:
                    return bool(self._ready)
                continue
            if job is None:
                self._closing = True
            elif job.begin():
                assert job.prepared is not None
                denoiser, (h, w) = self._bundle.kind.denoiser, job.latent_shape
                job.step_seconds = self._profile.estimate(denoiser, job.step_rows, h * w)
                self._start(job, encode(job.prepared, self._bundle), None)

    def _drop_aborted(self) -> None:
        kept = []
        for task in self._ready:
            cause = task.job.cause  # read once: another thread may set it at any moment
            if cause is None:
                kept.append(task)
            else:
                task.generator.close()
                task.job.end(cause)
        self._ready = kept

    def _run(self, batch: Batch) -> list[Arrays | Exception]:
        """The answer to each task. If the batch fails, each call is tried alone, so that only the bad one fails."""
        try:
            outputs = self._call(batch.network, batch.inputs(), [task.job for task in batch.tasks], batch.rows)
            return [*batch.split(outputs)]
        except Exception as error:
            if len(batch.tasks) == 1:
                log.exception("%s failed", batch.network)
                return [error]
            log.warning("%s failed for %d requests; trying each alone", batch.network, len(batch.tasks))
            return [answer for task in batch.tasks for answer in self._run(Batch([task]))]

    def _finish(self, batch: Batch, answers: list[Arrays | Exception]) -> None:
        self._ready = [task for task in self._ready if task not in batch.tasks]
        for task, answer in zip(batch.tasks, answers, strict=True):
            if isinstance(answer, Exception):
                task.generator.close()
                task.job.abort(as_request_error(answer))
                task.job.end(answer)
            else:
                self._remember(task.call, answer)
                self._advance(task, answer)

    def _start(self, job: Job, generator: Driven, index: int | None) -> None:
        self._advance(Task(job, generator, index, next(self._arrivals), Call("", {})), None)

    def _advance(self, task: Task, answer: Arrays | None) -> None:
        """Send a generator its answer and go on to its next call; start what follows when it is done."""
        job = task.job
        try:
            while True:
                item = task.generator.send(answer)  # type: ignore[arg-type]
                if isinstance(item, Call):
                    answer = self._recall(job, item)
                    if answer is None:
                        break
                else:
                    job.emit(item)
                    answer = None
        except StopIteration as stop:
            if isinstance(stop.value, Conditions):
                assert job.prepared is not None
                for index in range(job.prepared.request.num_images_per_prompt):
                    self._start(job, sample(job.prepared, stop.value, self._bundle, index), index)
            else:
                assert task.index is not None
                job.painted(task.index, stop.value)
        except Exception as error:
            log.exception("request %s failed", job.id)
            job.abort(as_request_error(error))
            job.end(error)
        else:
            task.call = item
            self._ready.append(task)


class PlainLoop(Loop):
    """One request at a time, start to end: the reference that batching is compared with."""

    def run(self) -> None:
        while True:
            self.pulse = self._clock()
            try:
                job = self._inbox.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                continue
            if job is None:
                return
            if job.begin():
                self._serve(job)

    def _serve(self, job: Job) -> None:
        assert job.prepared is not None
        try:
            conditions = self._drive(job, encode(job.prepared, self._bundle))
            for index in range(job.prepared.request.num_images_per_prompt):
                job.painted(index, self._drive(job, sample(job.prepared, conditions, self._bundle, index)))
        except Exception as error:
            if job.cause is None:
                log.exception("request %s failed", job.id)
            job.abort(as_request_error(error))
            job.end(error)

    def _drive(self, job: Job, generator: Generator[Call | Progress | Preview, Arrays, T]) -> T:
        answer: Arrays | None = None
        while True:
            if job.cause is not None:
                generator.close()
                raise job.cause
            try:
                item = generator.send(answer)  # type: ignore[arg-type]
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(item, Call):
                answer = self._recall(job, item)
                if answer is None:
                    answer = self._call(item.network, item.inputs, [job], item.rows)
                    self._remember(item, answer)
            else:
                job.emit(item)
                answer = None
