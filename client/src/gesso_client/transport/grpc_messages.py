"""Requests to gRPC messages, replies to responses, gRPC errors to ours: what both gRPC transports share."""

from __future__ import annotations

import re
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from gesso_client.errors import Cancelled, ConnectionFailed, DeadlineExceeded, GessoError, from_server, unreadable
from gesso_client.events import Response
from gesso_client.request import Request
from gesso_client.transport.address import Address
from gesso_client.transport.contract import GRACE_S, PARAMETER
from gesso_client.transport.tensors import decode, encode

_OPTIONS = (
    ("grpc.max_send_message_length", -1),  # pictures; gRPC's default is 4 MiB
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a restarted server is seen soon; the default goes up to two minutes
    ("grpc.use_local_subchannel_pool", 1),  # two clients do not share a connection, nor its troubles
)


# What gRPC says of a server that answered the first bytes with others than those of its protocol.
_OTHER_PROTOCOL = re.compile(r"^failed to connect to all addresses.*(HTTP/2|[Hh]ttp1|Socket closed|Connection reset)")
_NO_TLS = re.compile(r"^failed to connect to all addresses.*WRONG_VERSION_NUMBER")


def channel_options(address: Address) -> tuple[tuple[str, int | str], ...]:
    """gRPC reads the environment for itself, by a rule of its own; here it is told."""
    proxy = address.proxy
    return (*_OPTIONS, ("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy.url))


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
    details, status = error.details() or "", error.code().name
    found = from_server(details, status)
    if isinstance(found, ConnectionFailed):
        if address.proxy is None and _OTHER_PROTOCOL.match(details):
            advice = "with HTTP the URL begins with http://, with TLS with grpcs://"
            return ConnectionFailed(f"what listens at {address.where} does not speak gRPC; {advice} ({found.text})")
        if _NO_TLS.match(details):
            return ConnectionFailed(
                f"what listens at {address.where} does not speak TLS; without it there is no grpcs://"
            )
        return ConnectionFailed(f"the gRPC connection to {address.where} failed: {found.text}")
    if isinstance(found, Cancelled):
        return Cancelled()  # gRPC's words for it are about RPCs
    if status == "UNIMPLEMENTED":
        return ConnectionFailed(f"what listens at {address.where} speaks gRPC and is no gesso server: {found.text}")
    if status == "DEADLINE_EXCEEDED" and found.text == "Deadline Exceeded":  # nobody said anything
        return DeadlineExceeded(f"{address.where} did not answer in time")
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
