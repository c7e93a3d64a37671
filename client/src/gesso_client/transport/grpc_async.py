"""gRPC with asyncio; grpc_sync.py with `await`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from gesso_client.errors import Cancelled, ConnectionFailed, GessoError
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport import grpc_messages as messages
from gesso_client.transport.address import Address
from gesso_client.transport.contract import METADATA_TIMEOUT_S


class GrpcAsyncTransport:
    """contract.AsyncTransport over gRPC."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._channel: Any = None
        self._loop: asyncio.AbstractEventLoop  # of the channel
        self._closed = False

    async def run(self, request: Request) -> AsyncGenerator[Response, None]:
        rpc = self._stub().ModelStreamInfer(iter([messages.message(request)]), timeout=messages.timeout_s(request))
        refused: GessoError | None = None
        try:
            with self._typed():
                async for reply in rpc:
                    try:
                        response = messages.response(reply)
                    except GessoError as error:  # read on to the end: grpc_sync.py says why
                        refused = refused or error
                        continue
                    if response is not None:
                        yield response
                        self._check_loop()
        except GessoError as error:
            raise refused or error from error.__cause__
        finally:
            rpc.cancel()
        if refused is not None:
            raise refused

    async def model_names(self) -> tuple[str, ...]:
        statistics = await self._query("ModelStatistics", messages.statistics_request())
        return tuple(model.name for model in statistics.model_stats)

    async def describe(self, model: str) -> str | None:
        return messages.described(await self._query("ModelConfig", messages.config_request(model)))

    async def close(self) -> None:
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None and not self._loop.is_closed():
            self._check_loop()
            await channel.close()

    def _stub(self) -> Any:
        """Opens the channel on first use: it belongs to the event loop that runs then, and ends with it."""
        if self._closed:
            raise ConnectionFailed("the client is closed")
        if self._channel is not None and self._loop.is_closed():
            self._channel = None
        if self._channel is None:
            self._loop = asyncio.get_running_loop()
            target, options = self._address.target, messages.channel_options(self._address)
            self._channel = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
                if self._address.secure
                else grpc.aio.insecure_channel(target, options)
            )
        self._check_loop()
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ConnectionFailed("the client is in use in another event loop; make an AsyncClient in each")

    async def _query(self, method: str, message: Any) -> Any:
        with self._typed():
            return await getattr(self._stub(), method)(message, timeout=METADATA_TIMEOUT_S)

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise messages.typed(error, self._address) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):  # gRPC's, of a channel that was closed meanwhile
                raise Cancelled from error
            raise
