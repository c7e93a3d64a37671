"""Requests to HTTP bodies and back, in the two shapes Triton has for them.

`infer`: KServe v2 with the binary tensor extension. Exact and compact, but one response, and only for the `_once` twin.
`generate_stream`: flat JSON in, server-sent events out. Triton loses every shape on this path (a list of 60 numbers
arrives as [1, 20, 3]) and takes no timeout; `height` and `width` give the pictures their shape back on both sides.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from gesso_client.events import Response
from gesso_client.request import PRIORITY, Request
from gesso_client.transport.address import Address
from gesso_client.transport.tensors import decode, encode

HEADER_LENGTH = "Inference-Header-Content-Length"  # of the JSON in front of the raw tensors


def through(address: Address) -> tuple[str, dict[str, str]]:
    """What stands before every path, and the headers for the proxy where there is one."""
    proxy = address.proxy
    if proxy is None:
        return address.path, {}
    headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
    # With TLS the proxy gives a tunnel, and sees no path.
    return address.path if address.secure else f"http://{address.target}{address.path}", headers


def infer_body(request: Request) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of POST /v2/models/NAME/infer."""
    inputs, chunks = [], []
    for name, array in request.inputs.items():
        datatype, raw = encode(array)
        size = {"binary_data_size": len(raw)}
        inputs.append({"name": name, "datatype": datatype, "shape": array.shape, "parameters": size})
        chunks.append(raw)
    parameters = {"binary_data_output": True, **request.parameters}
    header = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *chunks]), headers


def infer_response(body: bytes, header_length: int) -> Response:
    """Raises ValueError, KeyError or TypeError when it is none."""
    outputs, position = {}, header_length
    for output in json.loads(body[:header_length])["outputs"]:
        end = position + output["parameters"]["binary_data_size"]
        outputs[output["name"]] = decode(output["datatype"], output["shape"], body[position:end])
        position = end
    return outputs


def generate_body(request: Request) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of POST /v2/models/NAME/generate_stream."""
    fields: dict[str, object] = {"height": request.height, "width": request.width}
    for name, array in request.inputs.items():
        flat = array.ndim > 1 or name in request.lists
        fields[name] = array.ravel().tolist() if flat else _plain(array)
    if request.priority is not None:
        fields[PRIORITY] = request.priority  # a field that is no input is a parameter
    return json.dumps(fields).encode(), {"Content-Type": "application/json"}


def generate_event(fields: dict[str, Any], request: Request) -> Response:
    """One server-sent event. Raises ValueError, KeyError or TypeError when it is none."""
    scalars = {name: np.array([fields[name]]) for name in ("step", "num_steps", "index", "seed")}
    texts = {name: np.array([fields[name].encode()], dtype=object) for name in ("event", "report")}
    levels = np.array(fields["image"], dtype=np.uint8)
    image = levels.reshape(request.height if levels.size else 0, request.width if levels.size else 0, 3)
    return scalars | texts | {"image": image}


def _plain(array: npt.NDArray[Any]) -> object:
    """A scalar as its sender wrote it: 0.7 in float32 is 0.7 in JSON, not 0.699999988."""
    if array.dtype == np.object_:
        return array[0].decode()
    return float(str(array[0])) if array.dtype == np.float32 else array[0].item()
