"""Triton's two protocols on loopback, with a tiny server's answers behind them, and a wire to cut."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from client.tiny import MODELS, PARAMETERS
from gesso_client.testing import answer, response
from gesso_client.transport.tensors import decode, encode


def replies(inputs: dict[str, Any]) -> Iterator[Any]:
    """The responses of a tiny server, as name -> array."""
    height, width = (int(inputs.get(side, [PARAMETERS[side]["default"]])[0]) for side in ("height", "width"))
    for event in answer(inputs, height, width):
        yield response(event)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's gRPC service. A prompt `error: TEXT` answers that error; every step takes `step_s` seconds."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.step_s = step_s
        self.requests: list[Any] = []
        self.cancelled: list[str] = []  # prompts of requests whose client hung up
        self._server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop(None).wait()

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        statistics = service_pb2.ModelStatisticsResponse()
        for name in MODELS:
            statistics.model_stats.add(name=name, version="1")
        return statistics

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name not in MODELS:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        config = service_pb2.ModelConfigResponse()
        if MODELS[request.name] is not None:
            config.config.parameters["gesso"].string_value = MODELS[request.name]
        return config

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            self.requests.append(request)
            tensors = zip(request.inputs, request.raw_input_contents, strict=True)
            inputs = {tensor.name: decode(tensor.datatype, tensor.shape, raw) for tensor, raw in tensors}
            prompt = inputs["prompt"][0].decode()
            ended = threading.Event()
            context.add_callback(
                lambda prompt=prompt, ended=ended: None if ended.is_set() else self.cancelled.append(prompt)
            )
            if prompt.startswith("error: "):
                ended.set()
                yield service_pb2.ModelStreamInferResponse(error_message=prompt.removeprefix("error: "))
                continue
            for reply in replies(inputs):
                time.sleep(self.step_s)
                yield _message(reply)
            ended.set()
            final = service_pb2.ModelStreamInferResponse()  # Triton's empty last one, where it was asked for
            final.infer_response.parameters["triton_final_response"].bool_param = True
            yield final


def _message(reply: dict) -> Any:
    message = service_pb2.ModelStreamInferResponse()
    for name, array in reply.items():
        datatype, raw = encode(array)
        message.infer_response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        message.infer_response.raw_output_contents.append(raw)
    return message


class FakeTritonHttp:
    """Triton's HTTP service; `generate_stream` loses the shapes, as the real one does."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.paths: list[str] = []
        self.hung_up = threading.Event()  # the client of a stream went away
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, step_s))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(fake: FakeTritonHttp, step_s: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.paths.append(self.path)
            if self.path == "/v2/models/stats":
                return self.answer(200, {"model_stats": [{"name": name, "version": "1"} for name in MODELS]})
            name = self.path.split("/")[3]
            if name not in MODELS:
                return self.answer(404, {"error": f"Request for unknown model: '{name}' is not found"})
            parameters = {} if MODELS[name] is None else {"gesso": {"string_value": MODELS[name]}}
            return self.answer(200, {"name": name, "parameters": parameters})

        def do_POST(self) -> None:
            fake.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/infer"):
                self.infer(body, int(self.headers["Inference-Header-Content-Length"]))
            else:
                self.stream(json.loads(body))

        def infer(self, body: bytes, length: int) -> None:
            inputs, position = {}, length
            for tensor in json.loads(body[:length])["inputs"]:
                end = position + tensor["parameters"]["binary_data_size"]
                inputs[tensor["name"]] = decode(tensor["datatype"], tensor["shape"], body[position:end])
                position = end
            prompt = inputs["prompt"][0].decode()
            if prompt.startswith("error: "):
                return self.answer(400, {"error": prompt.removeprefix("error: ")})
            time.sleep(step_s)
            outputs, chunks = [], []
            for name, array in list(replies(inputs))[-1].items():
                datatype, raw = encode(array)
                size = {"binary_data_size": len(raw)}
                outputs.append({"name": name, "datatype": datatype, "shape": array.shape, "parameters": size})
                chunks.append(raw)
            header = json.dumps({"outputs": outputs}).encode()
            return self.answer(200, b"".join([header, *chunks]), {"Inference-Header-Content-Length": str(len(header))})

        def stream(self, fields: dict[str, Any]) -> None:
            if fields["prompt"].startswith("error: "):
                return self.answer(400, b"data: " + json.dumps({"error": fields["prompt"][7:]}).encode() + b"\n\n")
            inputs = {name: np.atleast_1d(np.array(value)) for name, value in fields.items()}
            for name in inputs.keys() & {"image", "mask_image"}:  # flat; the size travels beside them
                size = fields["height"], fields["width"]
                inputs[name] = inputs[name].astype(np.uint8).reshape(*size, -1)
            if "mask_image" in inputs:
                inputs["mask_image"] = inputs["mask_image"][:, :, 0]
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                for reply in replies(inputs):
                    time.sleep(step_s)
                    plain = {name: _plain(array) for name, array in reply.items()}
                    self.chunk(b"data: " + json.dumps(plain).encode() + b"\n\n")
                    if fields["prompt"] == "break off":
                        return None
                self.chunk(b"")
            except OSError:
                fake.hung_up.set()
            return None

        def chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            self.wfile.flush()

        def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


def _plain(array: np.ndarray) -> Any:
    """As Triton's generate_stream writes an output: no shape, a list of one as a scalar."""
    if array.dtype == object:
        return array[0].decode()
    return array.ravel().tolist() if array.ndim > 1 else array[0].item()


class Wire:
    """A TCP relay in front of a server, with a plug to pull."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target = port
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def pull(self) -> None:
        self._listener.close()
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()
        except OSError:
            pass

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
