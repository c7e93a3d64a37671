"""Who is prepared next: by class, and without a large request in the way of a small one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from gesso_backend.serving.job import Job
from gesso_backend.serving.priority import due

LIGHT_BYTES = 8 * 2**20  # of pictures: such a request is prepared in a few milliseconds, a larger one in up to seconds


@dataclass(frozen=True)
class _Waiting:
    job: Job
    work: Callable[[], None]

    @property
    def light(self) -> bool:
        return self.job.input_bytes <= LIGHT_BYTES

    @property
    def due(self) -> float:
        return due(self.job.priority, self.job.account.submitted)


class Preparing:
    """Two threads. The first takes whoever is due first; the second works only while the first is busy with a large
    request, and takes those that are small or due before it. From any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._waiting: list[_Waiting] = []  # in the order they came
        self._busy: _Waiting | None = None  # what the first thread is at
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, args=(first,), name=f"gesso-prepare-{number}", daemon=True)
            for number, first in enumerate((True, False), start=1)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, work: Callable[[], None]) -> None:
        """Have `work`, which handles its own errors, done for a job."""
        with self._lock:
            self._waiting.append(_Waiting(job, work))
            self._lock.notify_all()

    def forget(self, job: Job) -> None:
        """A job has ended: what still waits for it, its pictures included, is let go."""
        with self._lock:
            self._waiting = [each for each in self._waiting if each.job is not job]

    def close(self) -> None:
        """Finish what was submitted, and stop."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, first: bool) -> None:
        while True:
            with self._lock:
                while (taken := self._next(first)) is None:
                    if self._closed and not self._waiting:
                        return
                    self._lock.wait()
                self._waiting.remove(taken)
                if first:
                    self._busy = taken
                self._lock.notify_all()  # the other may take something now, or end
            taken.work()
            with self._lock:
                if first:
                    self._busy = None
            del taken

    def _next(self, first: bool) -> _Waiting | None:
        able = self._waiting
        if not first:
            large = self._busy
            if large is None or large.light:
                return None
            able = [each for each in able if each.light or each.due < large.due]
        return min(able, key=lambda each: each.due, default=None)
