"""A blocking transport for asyncio: each blocking call in a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gesso_client.errors import Cancelled, ConnectionFailed
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport.contract import Transport

T = TypeVar("T")

MAX_IN_FLIGHT = 64  # further requests wait for a thread


class ThreadedTransport:
    """contract.AsyncTransport over a Transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        # Not the loop's default pool: its few threads belong to the rest of the program.
        self._closed = False
        self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="gesso-http")

    async def run(self, request: Request) -> AsyncGenerator[Response, None]:
        call = self._transport.run(request)
        responses = iter(call)
        try:
            # StopIteration cannot cross an awaitable, so the end is a value.
            while (response := await self._in_thread(lambda: next(responses, None))) is not None:
                yield response
        except ConnectionFailed as error:
            raise Cancelled if self._closed else error from error.__cause__
        finally:
            call.cancel()  # also frees the worker thread of a task that was cancelled

    async def model_names(self) -> tuple[str, ...]:
        return await self._in_thread(self._transport.model_names)

    async def describe(self, model: str) -> str | None:
        return await self._in_thread(lambda: self._transport.describe(model))

    async def close(self) -> None:
        self._closed = True
        self._transport.close()
        self._threads.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise ConnectionFailed("the client is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
