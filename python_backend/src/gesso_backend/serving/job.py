"""A job: one request's place in the server, and the promise that it ends in exactly one final reply."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from gesso_backend.errors import DeadlineExceeded, RequestError, as_request_error
from gesso_backend.serving.events import Channel
from gesso_backend.serving.metrics import Metrics
from gesso_backend.serving.outbox import Outbox
from gesso_backend.serving.priority import NORMAL
from gesso_backend.serving.report import Account


class Job:
    """Made when a request comes in, heard through its channel.

    `abort` may come from any thread. A job that no loop has taken ends at once; a running one is ended by the loop
    before its next network call.
    """

    def __init__(
        self,
        channel: Channel,
        outbox: Outbox,
        metrics: Metrics,
        on_end: Callable[[Job], None] = lambda job: None,
        *,
        deadline: float | None = None,
        id: str | None = None,
        priority: str = NORMAL,
        input_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """deadline: on `clock`, in seconds. priority: one of `priority.CLASS_SECONDS`. input_bytes: held for it."""
        self.id = id or uuid.uuid4().hex
        self.channel = channel
        self.deadline = deadline
        self.priority = priority
        self.input_bytes = input_bytes
        self.output_bytes = 0  # that it may send; set when it is prepared
        self.account = Account(clock, metrics, outbox)
        self._outbox = outbox
        self._metrics = metrics
        self._on_end = on_end
        self._clock = clock
        self._lock = threading.Lock()
        self._cause: RequestError | None = None
        self._taken = False
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def cause(self) -> RequestError | None:
        """Why it has to end early; set once, and by the deadline's passing too, whoever looks first."""
        with self._lock:
            if self._cause is None and self.deadline is not None and self._clock() > self.deadline:
                self._cause = DeadlineExceeded("the request's time limit passed")
            return self._cause

    def take(self) -> bool:
        """By a loop, which from now on is who ends it. False when it has ended already and is to be dropped."""
        with self._lock:
            self._taken = not self._ended
            return self._taken

    def abort(self, error: RequestError) -> None:
        """Have the job end with `error`, unless it has ended or is being ended."""
        with self._lock:
            if self._cause is None:
                self._cause = error
            waiting = not self._taken
        if waiting:
            self.end(error)

    def fail(self, error: BaseException) -> None:
        """End it for something that went wrong, which is from now on its cause."""
        ours = as_request_error(error)
        self.abort(ours)
        self.end(ours)

    def end(self, error: BaseException | None) -> None:
        """The one final reply. Later calls do nothing."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        reply = None if error is None else as_request_error(error)

        def close() -> None:
            try:
                self.channel.close(reply)
            finally:
                self._metrics.request("ok" if reply is None else reply.code.lower())

        self._outbox.post(close)
        self._on_end(self)

    def post(self, action: Callable[[], None]) -> None:
        """Have the outbox do something for it: not after its end, and one that fails is the end."""

        def guarded() -> None:
            if not self._ended:
                try:
                    action()
                except Exception as error:
                    self.fail(error)

        self._outbox.post(guarded)
