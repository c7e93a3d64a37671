"""The service: takes requests in, has them prepared and run, and sees that each one ends.

Threads: two prepare, one runs the loop, one finishes and answers (outbox), one watches for cancels, deadlines and a
stuck loop. None of it knows Triton, nor what kind of model it serves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gesso_backend.arrays import Arrays
from gesso_backend.engines import engine as engines_
from gesso_backend.engines.engine import CallModel, EngineSet
from gesso_backend.errors import Cancelled, RequestError
from gesso_backend.kinds import Kind, kind_of, open_bundle
from gesso_backend.model.pictures import check_pixels
from gesso_backend.serving import measure, policy
from gesso_backend.serving.admission import Admission, shutting_down
from gesso_backend.serving.batched import BatchedLoop
from gesso_backend.serving.costs import Costs, RowCaps
from gesso_backend.serving.events import Channel
from gesso_backend.serving.job import Job
from gesso_backend.serving.loop import Loop
from gesso_backend.serving.metrics import Metrics, NoMetrics
from gesso_backend.serving.outbox import Outbox
from gesso_backend.serving.plain import PlainLoop
from gesso_backend.serving.preparing import Preparing
from gesso_backend.serving.priority import NORMAL
from gesso_backend.serving.responses import Responses
from gesso_backend.serving.run import Run, repeat
from gesso_backend.serving.watch import ROUND_SECONDS, Watch
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)


class Service:
    """One bundle, served."""

    def __init__(
        self,
        kind: Kind[Any, Any],
        engines: EngineSet,
        settings: Settings,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_dead: Callable[[], None] = lambda: None,
        costs: Costs | None = None,
        unread: Callable[[], int] = lambda: 0,
    ) -> None:
        """costs: what the networks' calls take here; without them the row caps are guesses.
        unread: bytes on their way to clients, outside of this process.
        on_dead: called once, after the jobs have been failed, when the loop is found stuck or dead."""
        self.kind = kind
        self.engines = engines
        self._metrics = metrics or NoMetrics()
        self._clock = clock
        self.max_image_pixels = settings.max_image_pixels
        self._costs = costs or Costs.of(kind.bundle)
        self._outbox = Outbox()
        self._preparing = Preparing()
        self._responses = Responses(settings.response_cache_mib * 2**20)
        self._loop = self._make_loop(settings)
        self._admission = Admission(settings, self.healthy, clock, unread)
        self._watch = Watch(self._loop, self._admission, self._outbox, self._metrics, settings, clock, on_dead)
        self._loop.start()
        self._watch.start()

    @classmethod
    def load(
        cls,
        settings: Settings,
        metrics: Metrics | None = None,
        on_dead: Callable[[], None] = lambda: None,
        call: CallModel | None = None,
        unread: Callable[[], int] = lambda: 0,
    ) -> Service:
        """Open the bundle that the settings name, and its engines. Raises BundleError, SettingsError.

        call: calls a network that is a Triton model, for the triton engine.
        """
        folder = settings.bundle_path()
        bundle = open_bundle(folder, settings.verified)
        engines = engines_.load(settings, folder, bundle, call)
        kind = kind_of(bundle).open(folder, bundle)
        costs = None
        # The triton engine's networks cannot be called before this model is ready.
        if settings.profile_seconds and settings.loop == "batched" and settings.engine != "triton":
            costs = measure.load_or_measure(bundle, engines, settings)
        return cls(kind, engines, settings, metrics, on_dead=on_dead, costs=costs, unread=unread)

    def submit(
        self,
        inputs: Arrays,
        channel: Channel,
        timeout: float | None = None,
        job_id: str | None = None,
        priority: str = NORMAL,
    ) -> Job:
        """Accept a request; everything it comes to is said through `channel`, a refusal included.

        inputs: the wire's tensors, owned by the service from here on. timeout: seconds until it is given up.
        priority: interactive, normal or background.
        """
        job = Job(
            channel,
            self._outbox,
            self._metrics,
            self._let_go,
            deadline=None if timeout is None else self._clock() + timeout,
            id=job_id,
            priority=priority,
            input_bytes=sum(array.nbytes for array in inputs.values()),
            clock=self._clock,
        )
        refusal = self._too_large(inputs) or self._admission.admit(job)
        if refusal is not None:
            job.end(refusal)
        else:
            self._preparing.submit(job, partial(self._prepare, job, inputs))
        return job

    def _too_large(self, inputs: Arrays) -> RequestError | None:
        try:
            check_pixels(inputs, self.max_image_pixels)
        except RequestError as error:
            return error
        return None

    def check_room(self) -> None:
        """Raises what any request that came now would be refused with: to be asked before one is read."""
        refusal = self._admission.refusal()
        if refusal is not None:
            self._outbox.post(partial(self._metrics.request, refusal.code.lower()))
            raise refusal

    def cancel(self, job_id: str) -> bool:
        """Cancel a job by its id. False when there is none: it has ended, or never was."""
        job = self._admission.job(job_id)
        if job is not None:
            job.abort(Cancelled("the client cancelled"))
        return job is not None

    def healthy(self) -> bool:
        """False once the loop is stuck or dead: no request can end well any more."""
        return self._watch.healthy()

    def drain(self) -> None:
        """Refuse new requests, let the running ones finish for `drain_seconds`, end the rest, stop all threads."""
        give_up = self._admission.close()
        while self._admission.jobs and self._clock() < give_up and self._loop.alive:
            time.sleep(ROUND_SECONDS)
        self._admission.abort_all(shutting_down())
        self._preparing.close()
        if self._loop.alive:
            self._watch.expect_end()
            self._loop.close()
        for job in self._admission.jobs:  # of a dead loop; posted, so that what it had finished is sent first
            self._outbox.post(partial(job.end, job.cause))
        self._watch.close()
        self._outbox.close()

    def _make_loop(self, settings: Settings) -> Loop:
        cache_bytes = settings.cache_mib * 2**20
        if settings.loop == "plain":
            return PlainLoop(self.engines, self._outbox, self._metrics, self._clock, cache_bytes)
        chosen = policy.make(settings.policy, RowCaps(self._costs, settings.max_rows, settings.max_vae_rows))
        return BatchedLoop(self.engines, self._outbox, self._metrics, chosen, self._clock, cache_bytes)

    def _let_go(self, job: Job) -> None:
        """It has ended."""
        self._preparing.forget(job)
        self._admission.release(job)

    def _prepare(self, job: Job, inputs: Arrays) -> None:
        """On a preparing thread. Whatever is raised here is the job's end; one that has ended goes no further."""
        try:
            started = self._clock()
            request = None if job.ended else self.kind.parse(inputs)
            prepared = None if job.ended else self.kind.prepare(request)
            if not job.ended:
                self._hand_over(job, inputs, prepared, started)
        except Exception as error:
            job.end(error)

    def _hand_over(self, job: Job, inputs: Arrays, prepared: Any, started: float) -> None:
        known = self._responses.get(inputs)
        work = self.kind.work(prepared)
        self._admission.reserve(job, work)
        run = Run(
            job,
            self.kind,
            prepared,
            work,
            call_seconds=self._costs.estimate(work.network, work.rows, work.pixels),
            engines=self.engines.names,
            store=partial(self._responses.put, inputs),
            clock=self._clock,
        )
        job.account.spend("prepare", self._clock() - started)
        if known is None:
            self._loop.submit(run)
        else:
            repeat(job, known)
