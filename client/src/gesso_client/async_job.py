"""A request that runs in the background, for asyncio; job.py with `await`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from gesso_client.errors import Cancelled, ConnectionFailed
from gesso_client.events import Event, Image, Progress
from gesso_client.process import Process
from gesso_client.result import Result
from gesso_client.seconds import waiting


class AsyncJob:
    """What `AsyncClient.submit` returns: a Job with `await`. Belongs to one event loop."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._process = Process()
        self._events: list[Event] = []
        self._changed = asyncio.Event()  # set, and replaced by a fresh one, at every change
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(self._follow(events))
        self._task.add_done_callback(self._notify)

    async def result(self, timeout: float | None = None) -> Result:
        """Wait for the pictures. timeout: seconds; TimeoutError when it passes, and the job runs on."""
        longest = waiting(timeout)
        if not self._task.done():
            self._check_loop()
            await asyncio.wait({self._task}, timeout=longest)
        if not self._task.done():
            raise TimeoutError(f"the job is still running after {timeout} s")
        self._raise_outcome()
        return Result.of(self._events)

    async def events(self) -> AsyncIterator[Event]:
        """Every event from the first on, each as it comes. Raises the GessoError the job ended in."""
        position = 0
        while True:
            changed, done = self._changed, self._task.done()
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if done:
                self._raise_outcome()
                return
            self._check_loop()
            await changed.wait()

    @property
    def progress(self) -> Progress | None:
        """The latest Progress, or None before the first."""
        return next((event for event in reversed(self._events) if isinstance(event, Progress)), None)

    def done(self) -> bool:
        """True when it has ended, in whichever way."""
        return self._task.done()

    def cancel(self) -> None:
        """Ask the server to stop, from any thread. `result` raises Cancelled, unless the picture was there first."""
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            if asyncio.get_running_loop() is self._loop:
                self._task.cancel()
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the job ended with it
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _follow(self, events: AsyncGenerator[Event, None]) -> None:
        async with aclosing(events):
            async for event in events:
                self._events.append(event)
                self._notify()

    def _check_loop(self) -> None:
        self._process.check()
        if asyncio.get_running_loop() is not self._loop:
            raise ConnectionFailed("the job belongs to the event loop that it was submitted in")

    def _raise_outcome(self) -> None:
        if self._task.cancelled():
            cancelled = Cancelled()
            cancelled.finished = tuple(event for event in self._events if isinstance(event, Image))
            raise cancelled
        error = self._task.exception()
        if error is not None:
            raise error

    def _notify(self, _task: object = None) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
