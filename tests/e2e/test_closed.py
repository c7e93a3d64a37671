"""What clients learn of the machine, and who else could see a picture: nothing, nobody. test_access has the rest."""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import struct
from pathlib import Path

import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as messages

from e2e.conftest import Serve
from e2e.jobs import inpaint
from e2e.server import Server
from e2e.wire import connection, infer_binary, infer_grpc, stub

pytestmark = pytest.mark.e2e


def get(address: str, path: str) -> tuple[int, str]:
    with connection(address) as http_connection:
        http_connection.request("GET", path)
        answer = http_connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/inpaint/trace/setting",
        "/v2/systemsharedmemory/status/",
        "/v2//logging",
        "/v2/logging/",
        "/v2/logging?a=b",
    ],
)
def test_no_other_spelling_opens_it(server: Server, path: str) -> None:
    status, said = get(server.http, path)
    assert status in (http.client.FORBIDDEN, http.client.NOT_FOUND, http.client.BAD_REQUEST)
    assert "log_info" not in said


def test_what_clients_need_is_open_and_names_no_path(server: Server, tiny_bundle: Path) -> None:
    """Guards the SDK and perf_analyzer, who read these; and the machine, of which they are to learn nothing."""
    paths = ["/v2", "/v2/models/stats"]
    for model in ("inpaint", "inpaint_once"):
        paths += [f"/v2/models/{model}{what}" for what in ("", "/config", "/stats", "/versions/1/config", "/ready")]
    answers = [get(server.http, path) for path in paths]
    assert {status for status, _ in answers} == {http.client.OK}
    said = [text for _, text in answers] + [get(server.metrics, "/metrics")[1]]
    with stub(server.grpc) as triton:
        for reply in (
            triton.ModelConfig(messages.ModelConfigRequest(name="inpaint"), timeout=60),
            triton.ModelMetadata(messages.ModelMetadataRequest(name="inpaint"), timeout=60),
            triton.ModelStatistics(messages.ModelStatisticsRequest(), timeout=60),
            triton.ServerMetadata(messages.ServerMetadataRequest(), timeout=60),
        ):
            said.append(json_format.MessageToJson(reply))
    local = [
        str(Path.home()),
        str(tiny_bundle),
        str(server.log.parent),
        "/tmp",
        f"gesso_{server.process.pid}",
        "/dev/shm",
    ]
    for text in said:
        assert not [path for path in local if path in text]


def test_who_reads_the_command_line_has_no_key(server: Server) -> None:
    """Guards against other users of the machine: the keys stand in Triton's command line, and cannot be sent."""
    (words,) = {
        Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid, command in server.processes().items()
        if "-restricted-" in command
    }
    pairs = dict(re.findall(rb"--(http|grpc)-restricted-\w+=[\w,-]+:(gesso nobody=[^\0]+)", words))
    assert set(pairs) == {b"http", b"grpc"}
    name, _, key = pairs[b"http"].partition(b"=")
    for sent in (key, key.replace(b"\n", b"\r\n "), key.replace(b"\n", b"\r\n"), key.replace(b"\n", b" ")):
        answer = _raw(server.http, b"GET /v2/logging HTTP/1.1\r\nHost: x\r\n" + name + b": " + sent + b"\r\n\r\n")
        assert not answer.startswith(b"HTTP/1.1 200")
    assert key.split(b"\n")[0].decode() not in server.said()
    name, _, key = pairs[b"grpc"].partition(b"=")
    answer = _raw(server.grpc, _http2(b"LogSettings", (b"triton-grpc-protocol-" + name, key)))
    assert b"log_info" not in answer
    assert b"grpc-status" in answer


def test_pictures_in_memory_are_this_users_only(server: Server) -> None:
    """Guards against other users of the machine, who could read every picture in /dev/shm."""
    regions = server.shared_memory()
    assert regions
    assert {stat.S_IMODE(region.stat().st_mode) & 0o077 for region in regions} == {0}


def test_a_bundle_anywhere_is_served_anywhere(
    serve: Serve, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards letters beyond ASCII in a bundle's path, in the C locale (triton-inference-server/server#6086)."""
    odd = tmp_path / 'ünï — 画像\'s "bundle"\n2'
    odd.mkdir()
    for file in tiny_bundle.rglob("*"):
        target = odd / file.relative_to(tiny_bundle)
        target.mkdir() if file.is_dir() else os.link(file, target)
    for name in ("LC_ALL", "LANG", "PYTHONUTF8"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.delenv("HOME", raising=False)
    with serve(odd, "--host=localhost") as server:
        picture = infer_binary(server.http, inpaint()).image
        assert infer_grpc(server.grpc, inpaint()).image.tobytes() == picture.tobytes()


def _raw(address: str, request: bytes) -> bytes:
    """What comes back until the server is silent, closes, or has said a gRPC status or all of an HTTP answer."""
    host, port = address.split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=60) as peer:
        peer.sendall(request)
        while not re.search(rb"grpc-status|\r\n\r\n", answer) and (more := peer.recv(65536)):
            answer += more
    return answer


def _http2(method: bytes, header: tuple[bytes, bytes]) -> bytes:
    """A gRPC call with a header that no gRPC library would send: frames and literal headers, RFC 9113 and RFC 7541."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/inference.GRPCInferenceService/" + method,
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        header[0]: header[1],
    }
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(value)]) + value for name, value in headers.items())

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body

    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5))
