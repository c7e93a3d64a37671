"""The asynchronous client: client.py with `await`, and everything but the transport shared with it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Unpack

from gesso_client.client import DEFAULT_MODEL, parse_info, without_twins
from gesso_client.errors import Cancelled, GessoError
from gesso_client.events import Event, Progress, Reading
from gesso_client.models import ModelInfo
from gesso_client.pictures import Picture
from gesso_client.request import Options, Request, Task, build, check_names, task_of
from gesso_client.result import Result
from gesso_client.retry import Backoff
from gesso_client.transport import DEFAULT_URL, connect_async
from gesso_client.transport.contract import AsyncTransport


class AsyncJob:
    """What `AsyncClient.submit` returns: a Job with `await`. Belongs to one event loop."""

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events: list[Event] = []
        self._changed = asyncio.Event()  # set, and replaced by a fresh one, at every change
        self._task = asyncio.ensure_future(self._follow(events))
        self._task.add_done_callback(self._notify)

    async def result(self, timeout: float | None = None) -> Result:
        """Wait for the pictures. timeout: seconds; TimeoutError when it passes, and the job runs on."""
        done, _ = await asyncio.wait({self._task}, timeout=timeout)
        if not done:
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
            await changed.wait()

    @property
    def progress(self) -> Progress | None:
        """The latest Progress, or None before the first."""
        return next((event for event in reversed(self._events) if isinstance(event, Progress)), None)

    def done(self) -> bool:
        """True when it has ended, in whichever way."""
        return self._task.done()

    def cancel(self) -> None:
        """Ask the server to stop. `result` raises Cancelled, unless the picture was there first."""
        self._task.cancel()

    async def _follow(self, events: AsyncGenerator[Event, None]) -> None:
        async with aclosing(events):
            async for event in events:
                self._events.append(event)
                self._notify()

    def _raise_outcome(self) -> None:
        if self._task.cancelled():
            raise Cancelled("the request was cancelled")
        error = self._task.exception()
        if error is not None:
            raise error

    def _notify(self, _task: object = None) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class AsyncClient:
    """A gesso server, for asyncio. Arguments, methods and errors are Client's. Belongs to one event loop."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str = DEFAULT_MODEL,
        retries: int = 3,
        transport: AsyncTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._model = model
        self._transport = connect_async(url) if transport is None else transport
        self._backoff = Backoff(retries, jitter=jitter)
        self._sleep = sleep
        self._clock = clock
        self._infos: dict[str, ModelInfo] = {}

    async def inpaint(self, image: Picture, mask: Picture | None, prompt: str, **options: Unpack[Options]) -> Result:
        """Client.inpaint."""
        return await self._run("inpaint", prompt, image, mask, options)

    async def transform(self, image: Picture, prompt: str, **options: Unpack[Options]) -> Result:
        """Client.transform."""
        return await self._run("image_to_image", prompt, image, None, options)

    async def generate(self, prompt: str, **options: Unpack[Options]) -> Result:
        """Client.generate."""
        return await self._run("text_to_image", prompt, None, None, options)

    def stream(
        self, image: Picture | None, mask: Picture | None, prompt: str, **options: Unpack[Options]
    ) -> AsyncGenerator[Event, None]:
        """Client.stream; closing the generator (`aclosing`) or cancelling the task cancels the request."""
        return self._events(task_of(image, mask, options), prompt, image, mask, options, live=True)

    async def submit(
        self, image: Picture | None, mask: Picture | None, prompt: str, **options: Unpack[Options]
    ) -> AsyncJob:
        """Client.submit."""
        request = await self._request(task_of(image, mask, options), prompt, image, mask, options, live=True)
        return AsyncJob(self._attempts(request))

    async def models(self) -> tuple[ModelInfo, ...]:
        """Client.models."""
        names = without_twins(await self._transport.model_names())
        described = [(name, await self._transport.describe(name)) for name in names]
        return tuple(ModelInfo.parse(name, text) for name, text in described if text is not None)

    async def info(self, model: str | None = None) -> ModelInfo:
        """Client.info."""
        name = model or self._model
        if name not in self._infos:
            self._infos[name] = parse_info(name, await self._transport.describe(name))
        return self._infos[name]

    async def close(self) -> None:
        """Client.close."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(
        self, task: Task, prompt: str, image: Picture | None, mask: Picture | None, options: Options
    ) -> Result:
        return Result.of([event async for event in self._events(task, prompt, image, mask, options, live=False)])

    async def _request(
        self, task: Task, prompt: str, image: Picture | None, mask: Picture | None, options: Options, *, live: bool
    ) -> Request:
        check_names(options)
        info = await self.info(options.get("model"))
        # Decoding a large photograph takes longer than an event loop should stand still.
        return await asyncio.to_thread(build, info, task, prompt, image, mask, options, live=live)

    async def _events(
        self, task: Task, prompt: str, image: Picture | None, mask: Picture | None, options: Options, *, live: bool
    ) -> AsyncGenerator[Event, None]:
        request = await self._request(task, prompt, image, mask, options, live=live)
        async with aclosing(self._attempts(request)) as events:
            async for event in events:
                yield event

    async def _attempts(self, request: Request) -> AsyncGenerator[Event, None]:
        """EventStream.events, with `await`."""
        started = self._clock()
        left = request.deadline
        for attempt in itertools.count():
            reading = Reading(request.count)
            try:
                async with aclosing(self._transport.run(replace(request, deadline=left))) as responses:
                    async for response in responses:
                        yield reading.event(response)
                reading.end()
                return
            except GessoError as error:
                left = self._left(request, started)
                delay = None if reading.begun else self._backoff.delay(error, attempt, left)
                if delay is None:
                    raise
            await self._sleep(delay)
            left = self._left(request, started)

    def _left(self, request: Request, started: float) -> float | None:
        return None if request.deadline is None else request.deadline - (self._clock() - started)
