"""gRPC with asyncio; grpc_sync.py with `await`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from gesso_client.errors import ConnectionFailed, GessoError
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport import Address
from gesso_client.transport import grpc_messages as messages
from gesso_client.transport.contract import METADATA_TIMEOUT_S


class GrpcAsyncTransport:
    """contract.AsyncTransport over gRPC."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._channel: Any = None
        self._closed = False

    async def run(self, request: Request) -> AsyncGenerator[Response, None]:
        rpc = self._stub().ModelStreamInfer(iter([messages.message(request)]), timeout=messages.timeout_s(request))
        refused: GessoError | None = None
        try:
            async for reply in rpc:
                try:
                    response = messages.response(reply)
                except GessoError as error:  # read on to the end: grpc_sync.py says why
                    refused = refused or error
                    continue
                if response is not None:
                    yield response
        except grpc.RpcError as error:
            raise refused or messages.typed(error, self._address) from error
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
        if self._channel is not None:
            await self._channel.close()

    def _stub(self) -> Any:
        """Opens the channel on first use: it belongs to the event loop that runs then."""
        if self._closed:
            raise ConnectionFailed("the client is closed")
        if self._channel is None:
            target, options = messages.target(self._address), messages.CHANNEL_OPTIONS
            self._channel = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
                if self._address.secure
                else grpc.aio.insecure_channel(target, options)
            )
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def _query(self, method: str, message: Any) -> Any:
        try:
            return await getattr(self._stub(), method)(message, timeout=METADATA_TIMEOUT_S)
        except grpc.RpcError as error:
            raise messages.typed(error, self._address) from error
