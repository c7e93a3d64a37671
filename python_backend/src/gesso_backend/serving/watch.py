"""The watch: one thread that looks at the live jobs for cancels and passed deadlines, and at the loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gesso_backend.errors import Cancelled, as_request_error
from gesso_backend.serving.admission import Admission, shutting_down, stuck
from gesso_backend.serving.job import Job
from gesso_backend.serving.loop import Loop
from gesso_backend.serving.metrics import Metrics
from gesso_backend.serving.outbox import Outbox
from gesso_backend.settings import DRAIN, DRAINED, Settings

log = logging.getLogger(__name__)

ROUND_SECONDS = 0.02
REST = 9.0  # of a round's own length, at least: the watch takes a tenth of a core at most
WAITING_ASKED = 4  # jobs a round
UNREAD_SECONDS = 60.0  # for the last readers, when nothing runs and too much is unread


class Watch:
    def __init__(
        self,
        loop: Loop,
        admission: Admission,
        outbox: Outbox,
        metrics: Metrics,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        on_dead: Callable[[], None] = lambda: None,
    ) -> None:
        """on_dead: called once: when the loop is found stuck or dead, after the jobs have been failed; or when there is
        no job, and what nobody reads does not go away."""
        self._loop = loop
        self._admission = admission
        self._outbox = outbox
        self._metrics = metrics
        self._stall_seconds = settings.stall_seconds
        self._control = Path(settings.control) if settings.control else None
        self._clock = clock
        self._on_dead = on_dead
        self._dead = False  # the loop was found stuck or dead; it stays so, even if it moves again
        self._ending = False  # the loop is being closed: that it ends now is no death
        self._overgrown_since: float | None = None
        self._closed = threading.Event()
        self._turn = 0  # of the jobs that wait: whose turn it is to be asked
        self._thread = threading.Thread(target=self._run, name="gesso-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def healthy(self) -> bool:
        """False once the loop is stuck or dead: no request can end well any more."""
        stalled = self._clock() - self._loop.pulse > self._stall_seconds
        return self._loop.alive and not stalled and not self._dead

    def expect_end(self) -> None:
        """The loop is about to be closed."""
        self._ending = True

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            started = self._clock()
            jobs = self._admission.jobs
            self._look_at_all(jobs)
            closed = self._ending and not self._loop.alive
            if not self.healthy() and not closed:
                # The loop will not end them any more, so they are ended here; from now on none is admitted.
                self._dead = True
                for job in self._admission.jobs:
                    job.end(stuck())
                self._on_dead()
                return
            if self._overgrown(jobs):
                log.error("what clients do not read is kept and fills the memory: Triton has to start again")
                self._dead = True
                self._on_dead()
                return
            self._drain_if_asked()
            self._report_load(jobs)
            self._closed.wait(max(ROUND_SECONDS, REST * (self._clock() - started)))

    def _overgrown(self, jobs: Sequence[Job]) -> bool:
        """Whether Triton has long kept too much that nobody reads, and nobody would be disturbed by its end.

        Some of it is never let go: of a stream that is cancelled after its end, 24.10 keeps all.
        """
        now = self._clock()
        if jobs or not self._admission.overgrown:
            self._overgrown_since = None
        elif self._overgrown_since is None:
            self._overgrown_since = now
        return self._overgrown_since is not None and now - self._overgrown_since > UNREAD_SECONDS

    def _look_at_all(self, jobs: Sequence[Job]) -> None:
        """To ask for a cancel takes up to 0.4 ms of a core that the engine wants too. So those that run are asked each
        round; of those that wait, which hold up nobody, a few each.
        """
        waiting = [job for job in jobs if not job.account.started]
        due = {id(waiting[(self._turn + i) % len(waiting)]) for i in range(min(WAITING_ASKED, len(waiting)))}
        self._turn += WAITING_ASKED
        for job in jobs:
            self._look_at(job, job.account.started or id(job) in due)

    @staticmethod
    def _look_at(job: Job, ask: bool) -> None:
        try:
            cause = job.cause
            if cause is None and ask and job.channel.cancelled():
                cause = Cancelled("the client cancelled")
            if cause is not None:
                job.abort(cause)
        except Exception as error:  # a channel that cannot be asked ends its own job, not the watch
            job.abort(as_request_error(error))

    def _drain_if_asked(self) -> None:
        """Triton 24.10 does not wait for decoupled requests when it is stopped. So gesso-serve asks here first, with a
        file, and stops Triton when the answer, another file, says that every client has its reply.
        """
        if self._control is None or not (self._control / DRAIN).exists():
            return
        if self._clock() > self._admission.close():
            self._admission.abort_all(shutting_down())
        if not self._admission.jobs:
            self._outbox.post((self._control / DRAINED).touch)

    def _report_load(self, jobs: Sequence[Job]) -> None:
        running = [job.account for job in jobs if job.account.started]
        rows = sum(account.rows_in_flight for account in running)
        self._outbox.post(lambda: self._metrics.load(rows, len(jobs) - len(running)))
