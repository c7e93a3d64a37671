"""Requests to gRPC messages, replies to responses, gRPC errors to ours: what both gRPC transports share."""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from gesso_client.errors import Cancelled, ConnectionFailed, GessoError, from_server, unreadable
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport import Address
from gesso_client.transport.contract import GRACE_S, PARAMETER
from gesso_client.transport.tensors import decode, encode

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # pictures; gRPC's default is 4 MiB
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a restarted server is seen soon; the default goes up to two minutes
    ("grpc.use_local_subchannel_pool", 1),  # two clients do not share a connection, nor its troubles
)


def target(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def message(request: Request) -> Any:
    """The ModelInferRequest."""
    infer = service_pb2.ModelInferRequest(model_name=request.model)
    for name, array in request.inputs.items():
        datatype, raw = encode(array)
        infer.inputs.add(name=name, datatype=datatype, shape=array.shape)
        infer.raw_input_contents.append(raw)
    for name, value in request.parameters.items():
        if isinstance(value, int):
            infer.parameters[name].int64_param = value
        else:
            infer.parameters[name].string_param = value
    return infer


def timeout_s(request: Request) -> float | None:
    """Of the gRPC call, so that a server that hangs cannot hold the caller."""
    return None if request.deadline is None else request.deadline + GRACE_S


def response(reply: Any) -> Response | None:
    """Of a ModelStreamInferResponse; None for Triton's empty final one. Raises GessoError when it carries one."""
    if reply.error_message:
        raise from_server(reply.error_message)
    infer = reply.infer_response
    try:
        tensors = zip(infer.outputs, infer.raw_output_contents, strict=True)
        return {output.name: decode(output.datatype, output.shape, raw) for output, raw in tensors} or None
    except (ValueError, TypeError) as error:
        raise unreadable(error) from error


def typed(error: grpc.RpcError, address: Address) -> GessoError:
    """The typed error for a failed call."""
    found = from_server(error.details() or "", error.code().name)
    if isinstance(found, ConnectionFailed):
        return ConnectionFailed(f"the gRPC connection to {target(address)} failed: {found.text}")
    if isinstance(found, Cancelled):
        return Cancelled()  # gRPC's words for it are about RPCs
    return found


def described(reply: Any) -> str | None:
    """The `gesso` parameter of a ModelConfigResponse."""
    parameters = reply.config.parameters
    return parameters[PARAMETER].string_value if PARAMETER in parameters else None


def config_request(model: str) -> Any:
    return service_pb2.ModelConfigRequest(name=model)


def statistics_request() -> Any:
    """Of every model that is ready. The index of the repository would say the same, but is not open to clients."""
    return service_pb2.ModelStatisticsRequest()
