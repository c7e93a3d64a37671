"""The service: takes requests in, has them prepared and run, and sees that each one ends.

Threads: one prepares, one runs the loop, one finishes and answers (outbox), one watches for cancels, deadlines and a
stuck loop. None of it knows Triton.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gesso_backend import bundle as bundles
from gesso_backend import policy as policies
from gesso_backend import profile as profiles
from gesso_backend.bundle import Bundle
from gesso_backend.engines import CallModel, Engine, load_engines
from gesso_backend.errors import (
    Cancelled,
    InternalError,
    InvalidRequest,
    RequestError,
    Unavailable,
    as_request_error,
)
from gesso_backend.events import Channel
from gesso_backend.job import Job
from gesso_backend.loop import BatchedLoop, Loop, PlainLoop
from gesso_backend.metrics import Metrics, NoMetrics
from gesso_backend.outbox import Outbox
from gesso_backend.policy import CLASS_SECONDS, NORMAL
from gesso_backend.prepare import prepare
from gesso_backend.profile import Profile, RowCaps
from gesso_backend.request import parse
from gesso_backend.responses import Responses
from gesso_backend.settings import DRAIN, DRAINED, Settings
from gesso_backend.tokens import PromptTokenizer, open_tokenizers

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.02
WATCH_REST = 9.0  # of a round's own length, at least: the watch takes a tenth of a core at most
WAITING_ASKED = 4  # jobs a round


class Service:
    """One bundle, served."""

    def __init__(
        self,
        bundle: Bundle,
        tokenizers: Mapping[str, PromptTokenizer],
        engines: Mapping[str, Engine],
        settings: Settings,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_dead: Callable[[], None] = lambda: None,
        profile: Profile | None = None,
    ) -> None:
        """profile: what the networks' calls take here; without one the row caps are guesses.
        on_dead: called once, after the jobs have been failed, when the loop is found stuck or dead."""
        self.bundle = bundle
        self.engines = engines
        self._tokenizers = tokenizers
        self._settings = settings
        self._metrics = metrics or NoMetrics()
        self._clock = clock
        self._on_dead = on_dead
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._give_up: float | None = None  # set while draining: when what still runs is ended
        self._dead = False  # the loop was found stuck or dead; it stays so, even if it moves again
        self._ending = False  # the loop is being closed: that it ends now is no death
        self._closed = threading.Event()
        self._outbox = Outbox()
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="gesso-prepare")
        self._responses = Responses(settings.response_cache_mib * 2**20)
        cache_bytes = settings.cache_mib * 2**20
        self._loop: Loop
        if settings.loop == "plain":
            self._loop = PlainLoop(bundle, engines, self._outbox, self._metrics, clock, cache_bytes)
        else:
            profile = profile or Profile()
            caps = RowCaps(profile, settings.max_rows, settings.max_vae_rows)
            policy = policies.make(settings.policy, caps, bundle.kind.denoiser)
            self._loop = BatchedLoop(bundle, engines, self._outbox, self._metrics, policy, profile, clock, cache_bytes)
        self._loop.start()
        self._watcher = threading.Thread(target=self._watch, name="gesso-watch", daemon=True)
        self._watcher.start()

    @classmethod
    def load(
        cls,
        settings: Settings,
        metrics: Metrics | None = None,
        on_dead: Callable[[], None] = lambda: None,
        call: CallModel | None = None,
    ) -> Service:
        """Open the bundle that the settings name, and its engines. Raises BundleError, SettingsError.

        call: calls a network that is a Triton model, for the triton engine.
        """
        folder = settings.bundle_path()
        bundle = bundles.load(folder)
        engines = load_engines(settings, folder, bundle, call)
        tokenizers = open_tokenizers(folder, bundle.tokenizers)
        profile = None
        # The triton engine's networks cannot be called before this model is ready.
        if settings.profile_seconds and settings.loop == "batched" and settings.engine != "triton":
            profile = profiles.load_or_measure(bundle, engines, settings)
        return cls(bundle, tokenizers, engines, settings, metrics, on_dead=on_dead, profile=profile)

    def submit(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        channel: Channel,
        timeout: float | None = None,
        job_id: str | None = None,
        priority: str = NORMAL,
    ) -> Job:
        """Accept a request; everything it comes to is said through `channel`, a refusal included.

        inputs: the wire's tensors, owned by the service from here on. timeout: seconds until it is given up.
        priority: interactive, normal or background.
        """
        deadline = None if timeout is None else self._clock() + timeout
        job = Job(inputs, channel, self._outbox, self._metrics, self._forget, deadline, job_id, self._clock, priority)
        job.engines = getattr(self.engines, "kinds", {})
        refusal = _priority_refusal(priority) or self._admit(job)
        if refusal is not None:
            job.end(refusal)
        else:
            self._workers.submit(self._prepare, job)
        return job

    def cancel(self, job_id: str) -> bool:
        """Cancel a job by its id. False when there is none: it has ended, or never was."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is not None:
            job.abort(Cancelled("the client cancelled"))
        return job is not None

    def healthy(self) -> bool:
        """Whether the loop lives and is not stuck in a network call."""
        stalled = self._clock() - self._loop.pulse > self._settings.stall_seconds
        return self._loop.alive and not stalled and not self._dead

    def drain(self) -> None:
        """Refuse new requests, let the running ones finish for `drain_seconds`, end the rest, stop all threads."""
        give_up = self._refuse()
        while self._jobs and self._clock() < give_up and self._loop.alive:
            time.sleep(WATCH_SECONDS)
        self._abort_all(_shutting_down())
        self._workers.shutdown()
        if self._loop.alive:
            self._ending = True
            self._loop.close()
        with self._lock:
            left = list(self._jobs.values())
        for job in left:  # of a dead loop; posted, so that what it had finished is sent first
            self._outbox.post(partial(job.end, job.cause))
        self._closed.set()
        self._watcher.join()
        self._outbox.close()

    def _refuse(self) -> float:
        """Admit no more; returns when what still runs has to end."""
        with self._lock:
            if self._give_up is None:
                self._give_up = self._clock() + self._settings.drain_seconds
            return self._give_up

    def _drain_if_asked(self) -> None:
        """Triton 24.10 does not wait for decoupled requests when it is stopped. So gesso-serve asks here first, with a
        file, and stops Triton when the answer, another file, says that every client has its reply.
        """
        if not self._settings.control or not (Path(self._settings.control) / DRAIN).exists():
            return
        if self._clock() > self._refuse():
            self._abort_all(_shutting_down())
        with self._lock:
            idle = not self._jobs
        if idle:
            self._outbox.post((Path(self._settings.control) / DRAINED).touch)

    def _admit(self, job: Job) -> RequestError | None:
        settings = self._settings
        with self._lock:
            if not self.healthy():
                return InternalError("the engine's loop is stuck or dead")
            if self._give_up is not None:
                return _shutting_down()
            if len(self._jobs) >= settings.max_queue:
                return Unavailable(f"the queue is full ({settings.max_queue} requests)")
            held = sum(other.input_bytes for other in self._jobs.values())
            if self._jobs and held + job.input_bytes > settings.max_input_mib * 2**20:
                return Unavailable(f"the queue is full ({settings.max_input_mib} MiB of pictures)")
            if job.id in self._jobs:
                return InternalError("a request with this id is running")
            self._jobs[job.id] = job
        return None

    def _forget(self, job: Job) -> None:
        with self._lock:
            if self._jobs.get(job.id) is job:
                del self._jobs[job.id]

    def _prepare(self, job: Job) -> None:
        if job.ended:
            return
        started = self._clock()
        try:
            job.prepared = prepare(parse(job.inputs, self.bundle), self.bundle, self._tokenizers)
        except Exception as error:
            if not isinstance(error, RequestError):
                log.exception("preparing request %s failed", job.id)
            job.end(error)
            return
        job.spent("prepare", self._clock() - started)
        known = self._responses.recall(job.inputs)
        if known is None:
            job.keep = partial(self._responses.keep, job.inputs)
            self._loop.submit(job)
        else:
            job.answer(known)

    def _abort_all(self, error: RequestError) -> None:
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.abort(error)

    def _watch(self) -> None:
        """Look at the live jobs for cancels and passed deadlines, and at the loop.

        To ask for a cancel takes up to 0.4 ms of a core that the engine wants too. So those that run are asked each
        round, of those that wait, which hold up nobody, a few in turn.
        """
        asked = 0  # of those that wait: where the next round goes on
        while not self._closed.is_set():
            started = self._clock()
            with self._lock:
                jobs = list(self._jobs.values())
            waiting = [job for job in jobs if not job.started]
            turn = {id(waiting[(asked + i) % len(waiting)]) for i in range(min(WAITING_ASKED, len(waiting)))}
            asked += WAITING_ASKED
            for job in jobs:
                self._look_at(job, job.started or id(job) in turn)
            closed = self._ending and not self._loop.alive
            if not self.healthy() and not closed:
                # The loop will not end them any more, so they are ended here; from now on none is admitted.
                with self._lock:
                    self._dead = True
                    jobs = list(self._jobs.values())
                for job in jobs:
                    job.end(InternalError("the engine's loop is stuck or dead"))
                self._on_dead()
                return
            self._drain_if_asked()
            self._report_load(jobs)
            self._closed.wait(max(WATCH_SECONDS, WATCH_REST * (self._clock() - started)))

    def _look_at(self, job: Job, ask: bool) -> None:
        try:
            cause = job.cause
            if cause is None and ask and job.channel.cancelled():
                cause = Cancelled("the client cancelled")
            if cause is not None:
                job.abort(cause)
        except Exception as error:  # a channel that cannot be asked ends its own job, not the watch
            job.abort(as_request_error(error))

    def _report_load(self, jobs: list[Job]) -> None:
        running = [job for job in jobs if job.started]
        rows = sum(p.rows * p.request.num_images_per_prompt for j in running if (p := j.prepared))
        self._outbox.post(lambda: self._metrics.load(rows, len(jobs) - len(running)))


def _priority_refusal(priority: str) -> InvalidRequest | None:
    if priority in CLASS_SECONDS:
        return None
    return InvalidRequest("priority", f"{priority!r} is not one of {', '.join(CLASS_SECONDS)}")


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down")
