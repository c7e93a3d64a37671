"""One request on its way, in a thread or in an event loop: the two drivers of retry.py."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing, contextmanager

from gesso_client.errors import Cancelled, GessoError
from gesso_client.events import Event, Reading, Response, has_picture
from gesso_client.process import Process
from gesso_client.request import Request
from gesso_client.retry import Backoff, Pause, attempts
from gesso_client.transport.contract import AsyncTransport, Call, Transport


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
        self._process = Process()
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._sleep = sleep or self._cancelled.wait  # a wait that cancel ends
        self._clock = clock
        self._call: Call | None = None  # the running attempt

    def events(self) -> Generator[Event, None, None]:
        """Send the request, again where retry.py says so. Closing the generator cancels it. Raises GessoError."""
        self._process.check()
        steps = attempts(self._request, self._backoff, self._clock)
        step = next(steps, None)
        while step is not None:
            try:
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                else:
                    with self._opened(step.request) as call:
                        for response in call:
                            yield step.reading.event(response)
                            self._process.check()
            except GessoError as error:
                step = steps.throw(error)
            else:
                step = next(steps, None)

    def cancel(self) -> None:
        """Nothing happens in a fork: the call is not its own."""
        if not self._process.is_here():
            return
        with self._lock:
            self._cancelled.set()
            call = self._call
        if call is not None:
            call.cancel()

    @contextmanager
    def _opened(self, request: Request) -> Iterator[Call]:
        """The call of the next attempt, unless cancel came first. It does not outlive the block."""
        with self._lock:
            if self._cancelled.is_set():
                raise Cancelled
            call = self._call = self._transport.run(request)
        try:
            yield call
        finally:
            if self._process.is_here():
                call.cancel()  # nothing to do when it has ended by itself


async def async_events(
    transport: AsyncTransport,
    request: Request,
    backoff: Backoff,
    *,
    sleep: Callable[[float], Awaitable[object]],
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Event, None]:
    """EventStream.events, with `await`. Closing the generator, or cancelling its task, cancels the request."""
    steps = attempts(request, backoff, clock)
    step = next(steps, None)
    while step is not None:
        try:
            if isinstance(step, Pause):
                await sleep(step.seconds)
            else:
                async with aclosing(transport.run(step.request)) as responses:
                    async for response in responses:
                        yield await _read(step.reading, response)
        except GessoError as error:
            step = steps.throw(error)
        else:
            step = next(steps, None)


async def _read(reading: Reading, response: Response) -> Event:
    """Comparing a large picture takes longer than an event loop should stand still."""
    return await asyncio.to_thread(reading.event, response) if has_picture(response) else reading.event(response)
