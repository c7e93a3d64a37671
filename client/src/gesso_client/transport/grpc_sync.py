"""gRPC with threads: one bidirectional stream per request, so that cancelling one leaves the others alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from gesso_client.errors import ConnectionFailed, GessoError
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport import grpc_messages as messages
from gesso_client.transport.address import Address
from gesso_client.transport.contract import METADATA_TIMEOUT_S


class GrpcCall:
    def __init__(self, rpc: Any, address: Address) -> None:
        self._rpc = rpc
        self._address = address

    def __iter__(self) -> Iterator[Response]:
        refused: GessoError | None = None
        try:
            for reply in self._rpc:
                try:
                    response = messages.response(reply)
                except GessoError as error:
                    # Read on to the end, which is near: Triton 24.10 leaks a request whose stream is cancelled as it
                    # ends, and then waits for it when it is stopped.
                    refused = refused or error
                    continue
                if response is not None:
                    yield response
        except grpc.RpcError as error:
            raise refused or messages.typed(error, self._address) from error
        if refused is not None:
            raise refused

    def cancel(self) -> None:
        self._rpc.cancel()


class GrpcTransport:
    """contract.Transport over gRPC."""

    def __init__(self, address: Address) -> None:
        self._address = address
        target, options = address.target, messages.channel_options(address)
        self._channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
            if address.secure
            else grpc.insecure_channel(target, options)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def run(self, request: Request) -> GrpcCall:
        # The request side is closed after the one message; Triton then ends the stream with the last response.
        rpc = self._call("ModelStreamInfer", iter([messages.message(request)]), messages.timeout_s(request))
        return GrpcCall(rpc, self._address)

    def model_names(self) -> tuple[str, ...]:
        statistics = self._call("ModelStatistics", messages.statistics_request(), METADATA_TIMEOUT_S)
        return tuple(model.name for model in statistics.model_stats)

    def describe(self, model: str) -> str | None:
        return messages.described(self._call("ModelConfig", messages.config_request(model), METADATA_TIMEOUT_S))

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, message: Any, timeout: float | None) -> Any:
        try:
            return getattr(self._stub, method)(message, timeout=timeout)
        except grpc.RpcError as error:
            raise messages.typed(error, self._address) from error
        except ValueError as error:  # what a closed channel raises
            raise ConnectionFailed("the client is closed") from error
