"""The asynchronous client: client.py with `await`, and everything but the transport shared with it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from types import TracebackType
from typing import Any, Unpack

from gesso_client.async_job import AsyncJob
from gesso_client.client import DEFAULT_MODEL
from gesso_client.events import Event
from gesso_client.models import ModelInfo, name_of
from gesso_client.process import Process
from gesso_client.request import Options, Request, Task, build, task_of
from gesso_client.result import Result
from gesso_client.retry import Backoff
from gesso_client.source import Picture, Taken, taken
from gesso_client.stream import async_events
from gesso_client.transport import DEFAULT_URL, connect_async
from gesso_client.transport.contract import AsyncTransport, without_twins


class AsyncClient:
    """A gesso server, for asyncio. Arguments, methods and errors are Client's.

    Belongs to one process and, until that has ended, one event loop: in another, calls raise ConnectionFailed (over
    HTTP they work).

    A call takes the pictures out of the caller's hands at once, before it is awaited; what is wrong with them is raised
    when it is.
    """

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
        self._process = Process()

    def inpaint(
        self, image: Picture, mask: Picture | None, prompt: str, **options: Unpack[Options]
    ) -> Coroutine[Any, Any, Result]:
        """Client.inpaint."""
        return self._run("inpaint", prompt, *taken(image, mask), options)

    def transform(self, image: Picture, prompt: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Result]:
        """Client.transform."""
        return self._run("image_to_image", prompt, *taken(image, None), options)

    async def generate(self, prompt: str, **options: Unpack[Options]) -> Result:
        """Client.generate."""
        return await self._run("text_to_image", prompt, None, None, options)

    def stream(
        self, image: Picture | None, mask: Picture | None, prompt: str, **options: Unpack[Options]
    ) -> AsyncGenerator[Event, None]:
        """Client.stream; closing the generator (`aclosing`) or cancelling the task cancels the request."""
        return self._events(task_of(image, mask, options), prompt, *taken(image, mask), options, live=True)

    def submit(
        self, image: Picture | None, mask: Picture | None, prompt: str, **options: Unpack[Options]
    ) -> Coroutine[Any, Any, AsyncJob]:
        """Client.submit."""
        return self._submit(task_of(image, mask, options), prompt, *taken(image, mask), options)

    async def models(self) -> tuple[ModelInfo, ...]:
        """Client.models."""
        self._process.check()
        names = without_twins(await self._transport.model_names())
        described = [(name, await self._transport.describe(name)) for name in names]
        return tuple(ModelInfo.parse(name, text) for name, text in described if text is not None)

    async def info(self, model: str | None = None) -> ModelInfo:
        """Client.info."""
        self._process.check()
        name = name_of(model, self._model)
        if name not in self._infos:
            self._infos[name] = ModelInfo.parse(name, await self._transport.describe(name))
        return self._infos[name]

    async def close(self) -> None:
        """Client.close."""
        if self._process.is_here():
            await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _submit(
        self, task: Task, prompt: str, image: Taken | None, mask: Taken | None, options: Options
    ) -> AsyncJob:
        return AsyncJob(self._stream(await self._request(task, prompt, image, mask, options, live=True)))

    async def _run(self, task: Task, prompt: str, image: Taken | None, mask: Taken | None, options: Options) -> Result:
        return Result.of([event async for event in self._events(task, prompt, image, mask, options, live=False)])

    async def _request(
        self, task: Task, prompt: str, image: Taken | None, mask: Taken | None, options: Options, *, live: bool
    ) -> Request:
        info = await self.info(options.get("model"))
        # Decoding a large photograph takes longer than an event loop should stand still.
        return await asyncio.to_thread(build, info, task, prompt, image, mask, options, live=live)

    async def _events(
        self, task: Task, prompt: str, image: Taken | None, mask: Taken | None, options: Options, *, live: bool
    ) -> AsyncGenerator[Event, None]:
        request = await self._request(task, prompt, image, mask, options, live=live)
        async with aclosing(self._stream(request)) as events:
            async for event in events:
                yield event

    def _stream(self, request: Request) -> AsyncGenerator[Event, None]:
        return async_events(self._transport, request, self._backoff, sleep=self._sleep, clock=self._clock)
