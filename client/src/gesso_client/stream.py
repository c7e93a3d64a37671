"""One request on its way: its attempts, its events, its cancellation."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace

from gesso_client.errors import Cancelled, GessoError
from gesso_client.events import Event, Reading
from gesso_client.request import Request
from gesso_client.retry import Backoff
from gesso_client.transport.contract import Call, Transport


class EventStream:
    """The events of one request. `cancel` may come from any thread, at any time, any number of times."""

    def __init__(
        self,
        transport: Transport,
        request: Request,
        backoff: Backoff,
        *,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._request = request
        self._backoff = backoff
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._sleep = sleep or self._cancelled.wait  # a wait that cancel ends
        self._clock = clock
        self._call: Call | None = None  # the running attempt

    def events(self) -> Generator[Event, None, None]:
        """Send the request, and again while the server is unavailable and nothing was delivered.

        Closing the generator cancels the request. Raises GessoError.
        """
        started = self._clock()
        left = self._request.deadline
        for attempt in itertools.count():
            reading = Reading(self._request.count)
            try:
                call = self._start(left)
                try:
                    for response in call:
                        yield reading.event(response)
                finally:
                    call.cancel()  # nothing to do when it has ended by itself
                reading.end()
                return
            except GessoError as error:
                left = self._left(started)
                delay = None if reading.begun else self._backoff.delay(error, attempt, left)
                if delay is None:
                    raise
            self._sleep(delay)
            left = self._left(started)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled.set()
            call = self._call
        if call is not None:
            call.cancel()

    def _start(self, deadline: float | None) -> Call:
        """Open the next attempt, unless cancel came first."""
        with self._lock:
            if self._cancelled.is_set():
                raise Cancelled("the request was cancelled")
            self._call = self._transport.run(replace(self._request, deadline=deadline))
            return self._call

    def _left(self, started: float) -> float | None:
        """Seconds left of the deadline; attempts and pauses share one."""
        return None if self._request.deadline is None else self._request.deadline - (self._clock() - started)
