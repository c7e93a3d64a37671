"""What a client says of a server that is none of gesso's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from client.command_line import gesso
from client.servers import FakeTriton, FakeTritonHttp
from gesso_client import AsyncClient, Client, ConnectionFailed, GessoError, NotFound
from gesso_client.cli import main


def failure(url: str) -> str:
    """The one error of both clients."""
    with Client(url) as client, pytest.raises(ConnectionFailed) as caught:
        client.info()

    async def run() -> None:
        async with AsyncClient(url) as client:
            await client.info()

    with pytest.raises(ConnectionFailed) as again:
        asyncio.run(run())
    assert url.rpartition("/")[2] in str(again.value)
    assert "\n" not in f"{caught.value}{again.value}"
    return str(caught.value)


@pytest.fixture
def listening() -> Iterator[Callable[[bytes], str]]:
    """Listeners that say something to whoever comes, and hang up."""
    listeners: list[socket.socket] = []

    def start(words: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                near.sendall(words)
                near.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


def test_the_http_port_given_as_grpc_and_the_other_way_round() -> None:
    http, triton = FakeTritonHttp(), FakeTriton()
    host = http.url.removeprefix("http://")
    assert f"what listens at {host} does not speak gRPC; with HTTP the URL begins with http://" in failure(host)
    assert f"what listens at {triton.url} does not speak HTTP; with gRPC the URL has no http://" in failure(
        f"http://{triton.url}"
    )
    assert f"what listens at {host} does not speak TLS" in failure(f"https://{host}")
    assert f"what listens at {triton.url} does not speak TLS" in failure(f"grpcs://{triton.url}")
    http.stop()
    triton.stop()


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH_9\r\n"])
def test_something_else_that_listens(listening: Callable[[bytes], str], words: bytes) -> None:
    """Triton's own HTTP port closes a connection that speaks HTTP/2: the words were "Socket closed"."""
    where = listening(words)
    assert f"what listens at {where} does not speak gRPC" in failure(where)
    assert where in failure(f"http://{where}")


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"<html>"), (404, b'{"detail": "?"}'), (301, b""), (200, b"[]"), (200, b"<html>"), (200, b"[" * 100_000)],
)
def test_another_web_server(status: int, body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    where = f"127.0.0.1:{server.server_port}"
    assert f"what listens at {where} is no gesso server: " in failure(f"http://{where}")
    with Client(f"http://{where}") as client, pytest.raises(ConnectionFailed):
        client.models()
    server.shutdown()
    server.server_close()


def test_a_server_without_tls_that_only_hangs_up(listening: Callable[[bytes], str]) -> None:
    """As Triton's HTTP port does: OpenSSL's words for it say nothing of TLS."""
    assert "does not speak TLS" in failure(f"https://{listening(b'')}")


def test_another_grpc_server() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    where = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    assert f"what listens at {where} speaks gRPC and is no gesso server" in failure(where)
    server.stop(None).wait()


@pytest.mark.parametrize(
    "url", ["localhost:99999", "localhost:-1", "localhost:0", "localhost:1e4", "http://localhost:65536", "lo cal:8001"]
)
def test_a_port_out_of_range_is_one_line(capsys: pytest.CaptureFixture[str], url: str) -> None:
    with pytest.raises(GessoError) as caught:
        Client(url)
    assert caught.value.field == "url"
    if " " not in url:
        assert main(["models", "--url", url]) == 2
        err = capsys.readouterr().err
        assert err.startswith("gesso: url: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'x' * 300}"])
def test_a_host_that_can_be_none_is_one_line(url: str) -> None:
    assert "the HTTP connection to " in failure(url)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GESSO_URL", "")
    assert gesso("models")[0] == 0


def test_an_unknown_model_is_still_not_found() -> None:
    for server in (FakeTriton(), FakeTritonHttp()):
        with Client(server.url) as client, pytest.raises(NotFound):
            client.info("nope")
        server.stop()
