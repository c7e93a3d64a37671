"""Raw KServe v2 calls, written out: what any Triton client sends, and nothing of ours.

Tensors go in and come out as arrays; an error is `Refused` with what the server said.
"""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

Tensors = Mapping[str, npt.NDArray[Any]]

DATATYPES = {"uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float32": "FP32", "bool": "BOOL", "object": "BYTES"}
DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
INT32 = ["height", "width", "num_inference_steps", "num_images_per_prompt"]
INT32 += ["clip_skip", "max_sequence_length", "padding_mask_crop", "mask_feather", "preview_every", "preview_size"]
TIMEOUT_SECONDS = 120.0


class Refused(Exception):
    """The server answered with an error. code: HTTP status, gRPC status name, or "stream" inside a stream."""

    def __init__(self, code: int | str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Event:
    """One response, decoded."""

    event: str
    step: int
    num_steps: int
    index: int
    seed: int
    image: npt.NDArray[np.uint8]  # [H, W, 3]
    report: dict[str, Any]


def tensors(**values: Any) -> dict[str, npt.NDArray[Any]]:
    """The wire's tensors of plain values; arrays go as they are."""

    def tensor(name: str, value: Any) -> npt.NDArray[Any]:
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, str | bytes):
            return np.array([value.encode() if isinstance(value, str) else value], np.object_)
        if isinstance(value, list):
            return np.array(value, np.float32 if isinstance(value[0], float) else np.int32)
        kind = np.bool_ if isinstance(value, bool) else np.float32 if isinstance(value, float) else np.int64
        return np.array([value], np.int32 if name in INT32 else kind)

    return {name: tensor(name, value) for name, value in values.items()}


def event_of(outputs: Mapping[str, Any]) -> Event:
    """`outputs`: name -> array, or the flat lists and scalars of generate and generate_stream."""

    def scalar(name: str) -> Any:
        value = np.asarray(outputs[name]).reshape(-1)[0]
        return value.decode() if isinstance(value, bytes) else value

    image = np.asarray(outputs["image"], np.uint8)
    numbers = {name: int(scalar(name)) for name in ("step", "num_steps", "index", "seed")}
    report = str(scalar("report"))
    return Event(event=str(scalar("event")), image=image, report=json.loads(report) if report else {}, **numbers)


def post(address: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[Any, bytes]:
    """One HTTP request: (response, body)."""
    with connection(address) as http_connection:
        http_connection.request("POST", path, body, dict(headers or {}))
        response = http_connection.getresponse()
        return response, response.read()


def infer_json(address: str, inputs: Tensors, model: str = "inpaint_once", **parameters: Any) -> Event:
    """Plain JSON over HTTP."""
    listed = [{**_head(name, array), "data": _plain(array)} for name, array in inputs.items()]
    body = json.dumps({"inputs": listed, "parameters": parameters}).encode()
    response, answer = post(address, f"/v2/models/{model}/infer", body)
    if response.status != 200:
        raise Refused(response.status, _said(answer))
    outputs = json.loads(answer)["outputs"]
    return event_of({output["name"]: np.reshape(output["data"], output["shape"]) for output in outputs})


def infer_binary(address: str, inputs: Tensors, model: str = "inpaint_once", **parameters: Any) -> Event:
    """The binary tensor extension over HTTP, both ways."""
    body, headers = binary_request(inputs, **parameters)
    response, answer = post(address, f"/v2/models/{model}/infer", body, headers)
    if response.status != 200:
        raise Refused(response.status, _said(answer))
    size = int(response.headers["Inference-Header-Content-Length"])
    outputs = {}
    for output in json.loads(answer[:size])["outputs"]:
        length = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = _unpacked(answer[size : size + length], output["datatype"], output["shape"])
        size += length
    return event_of(outputs)


def binary_request(inputs: Tensors, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of a request whose tensors, and whose answer's, are binary."""
    raw = {name: _packed(array) for name, array in inputs.items()}
    listed = [{**_head(name, inputs[name]), "parameters": {"binary_data_size": len(raw[name])}} for name in inputs]
    head = json.dumps({"inputs": listed, "parameters": {**parameters, "binary_data_output": True}}).encode()
    return head + b"".join(raw.values()), {"Inference-Header-Content-Length": str(len(head))}


def infer_grpc(address: str, inputs: Tensors, model: str = "inpaint_once", **parameters: Any) -> Event:
    """The unary gRPC call."""
    with stub(address) as triton:
        try:
            response = triton.ModelInfer(grpc_request(inputs, model, **parameters), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from None
        return event_of(_grpc_outputs(response))


def stream_grpc(address: str, inputs: Tensors, model: str = "inpaint", **parameters: Any) -> Iterator[Event]:
    """The events of a request over ModelStreamInfer, to the stream's end. Closing the iterator cancels.

    A stream that has ended is not cancelled: Triton 24.10 can then keep the request for ever, and stops only when its
    exit timeout is over.
    """
    request = grpc_request(inputs, model, **parameters)
    error_message = ""
    with stub(address) as triton:
        call = triton.ModelStreamInfer(iter([request]), timeout=TIMEOUT_SECONDS)
        try:
            for message in call:
                error_message = error_message or message.error_message
                if message.infer_response.outputs:
                    yield event_of(_grpc_outputs(message.infer_response))
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from None
        except GeneratorExit:
            call.cancel()
            raise
    if error_message:
        raise Refused("stream", error_message)


def grpc_request(inputs: Tensors, model: str, **parameters: Any) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(**_head(name, array))
        request.raw_input_contents.append(_packed(array))
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def generate(address: str, body: Mapping[str, Any], model: str = "inpaint_once") -> dict[str, Any]:
    """The generate endpoint: one JSON object in, one out."""
    response, answer = post(address, f"/v2/models/{model}/generate", json.dumps(body).encode())
    if response.status != 200:
        raise Refused(response.status, _said(answer))
    return dict(json.loads(answer))


def generate_stream(address: str, body: Mapping[str, Any], model: str = "inpaint") -> Iterator[dict[str, Any]]:
    """The objects of generate_stream (server-sent events). Closing the iterator disconnects."""
    with connection(address) as http_connection:
        http_connection.request("POST", f"/v2/models/{model}/generate_stream", json.dumps(body).encode())
        response = http_connection.getresponse()
        if response.status != 200:
            raise Refused(response.status, _said(response.read()))
        for line in response:
            if line.startswith(b"data: "):
                found = json.loads(line.removeprefix(b"data: "))
                if "error" in found:
                    raise Refused("stream", found["error"])
                yield found


def flat(inputs: Tensors) -> dict[str, Any]:
    """The body of generate and generate_stream: scalars, and flat lists of what is more."""
    plain = {name: _plain(array) for name, array in inputs.items()}
    return {name: value[0] if len(value) == 1 else value for name, value in plain.items()}


@contextmanager
def connection(address: str) -> Iterator[http.client.HTTPConnection]:
    http_connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    try:
        yield http_connection
    finally:
        http_connection.close()


@contextmanager
def stub(address: str) -> Iterator[Any]:
    """Triton's gRPC service, on a connection of its own."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=unlimited) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def _head(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}


def _plain(array: npt.NDArray[Any]) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]


def _packed(array: npt.NDArray[Any]) -> bytes:
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).tobytes()
    return b"".join(struct.pack("<I", len(value)) + value for value in array.reshape(-1))


def _unpacked(raw: bytes, datatype: str, shape: Iterable[int]) -> npt.NDArray[Any]:
    if datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[datatype]).reshape(tuple(shape))
    values, start = [], 0
    while start < len(raw):
        (length,) = struct.unpack_from("<I", raw, start)
        values.append(raw[start + 4 : start + 4 + length])
        start += 4 + length
    return np.array(values, np.object_).reshape(tuple(shape))


def _grpc_outputs(response: service_pb2.ModelInferResponse) -> dict[str, npt.NDArray[Any]]:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: _unpacked(raw, output.datatype, output.shape) for output, raw in pairs}


def _said(answer: bytes) -> str:
    try:
        return str(json.loads(answer.removeprefix(b"data: "))["error"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")
