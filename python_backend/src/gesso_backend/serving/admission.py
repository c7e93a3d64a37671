"""Who is in the server: jobs come in here, within the settings' bounds, and are let go when they have ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gesso_backend.errors import InternalError, InvalidRequest, RequestError, Unavailable
from gesso_backend.kinds.kind import Work
from gesso_backend.model.parameters import PICTURES, PREVIEWS
from gesso_backend.serving.job import Job
from gesso_backend.serving.priority import CLASS_SECONDS
from gesso_backend.settings import Settings

EVENT_BYTES = 2**11  # of a response in Triton's memory, besides its picture


class Admission:
    """From any thread."""

    def __init__(
        self,
        settings: Settings,
        healthy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        unread: Callable[[], int] = lambda: 0,
    ) -> None:
        """healthy: whether what is admitted can be served. unread: bytes on their way to clients, outside of this
        process."""
        self._settings = settings
        self._unread = unread
        self._healthy = healthy
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._give_up: float | None = None  # set while draining: when what still runs is ended

    def admit(self, job: Job) -> RequestError | None:
        """Take a job in, or say why not."""
        settings = self._settings
        if job.priority not in CLASS_SECONDS:
            return InvalidRequest("priority", f"{job.priority!r} is not one of {', '.join(CLASS_SECONDS)}")
        with self._lock:
            refusal = self._refusal()
            if refusal is not None:
                return refusal
            held = sum(other.input_bytes for other in self._jobs.values())
            if self._jobs and held + job.input_bytes > settings.max_input_mib * 2**20:
                return Unavailable(f"the queue is full ({settings.max_input_mib} MiB of pictures)")
            if job.id in self._jobs:
                return InternalError("a request with this id is running")
            self._jobs[job.id] = job
        return None

    def refusal(self) -> RequestError | None:
        """What any request that came now would be refused with."""
        with self._lock:
            return self._refusal()

    def _refusal(self) -> RequestError | None:
        if not self._healthy():
            return stuck()
        if self._give_up is not None:
            return shutting_down()
        settings = self._settings
        if len(self._jobs) >= settings.max_queue:
            return Unavailable(f"the queue is full ({settings.max_queue} requests)")
        if self.overgrown:
            return Unavailable("the server holds too much that clients have not read")
        return None

    @property
    def overgrown(self) -> bool:
        """Whether more is on its way to clients than all that may come and be sent at once: nobody reads it."""
        return self._unread() > (self._settings.max_input_mib + self._settings.max_output_mib) * 2**20

    def reserve(self, job: Job, work: Work) -> None:
        """Set aside what a job may send: Triton keeps all of it in memory until the client has read it.

        Raises InvalidRequest for more than one request may send, Unavailable for more than there is room for now.
        """
        settings = self._settings
        most, room = settings.limits["max_preview_bytes"], settings.max_output_mib * 2**20
        previews = 0 if job.channel.only_image else work.preview_bytes
        if previews > most:
            text = f"{previews} bytes of previews, the maximum is {most}: ask for fewer, or smaller ones (preview_size)"
            raise InvalidRequest(PREVIEWS, text)
        needed = work.picture_bytes + previews + EVENT_BYTES * (2 * work.calls + work.pictures)
        if needed > room:
            raise InvalidRequest(PICTURES, f"{needed} bytes would be sent, the maximum is {room}")
        with self._lock:
            held = sum(other.output_bytes for other in self._jobs.values())
            if held + needed > room:
                raise Unavailable(f"the queue is full ({settings.max_output_mib} MiB to be sent)")
            job.output_bytes = needed

    def release(self, job: Job) -> None:
        """A job has ended."""
        with self._lock:
            if self._jobs.get(job.id) is job:
                del self._jobs[job.id]

    def job(self, job_id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    @property
    def jobs(self) -> list[Job]:
        """Those that are in the server now."""
        with self._lock:
            return list(self._jobs.values())

    def close(self) -> float:
        """Admit no more; returns when what still runs has to end, on the clock."""
        with self._lock:
            if self._give_up is None:
                self._give_up = self._clock() + self._settings.drain_seconds
            return self._give_up

    def abort_all(self, error: RequestError) -> None:
        for job in self.jobs:
            job.abort(error)


def stuck() -> InternalError:
    return InternalError("the engine's loop is stuck or dead")


def shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down")
