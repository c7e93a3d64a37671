"""Proxies of the environment: one rule for both protocols, none for this machine (grpc/grpc#29718)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from client.servers import FakeTriton, FakeTritonHttp
from gesso_client import AsyncClient, Client, ConnectionFailed, InvalidRequest
from gesso_client.transport.proxy import is_loopback, proxy_for

NOWHERE = "http://127.0.0.1:9"
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.fixture
def servers() -> Iterator[tuple[FakeTriton, FakeTritonHttp]]:
    grpc, http = FakeTriton(), FakeTritonHttp()
    yield grpc, http
    grpc.stop()
    http.stop()


def ask(url: str, kind: str) -> int:
    """The seed of a picture."""
    if kind == "sync":
        with Client(url) as gesso:
            return gesso.generate("a cat").seed

    async def main() -> int:
        async with AsyncClient(url) as gesso:
            return (await gesso.generate("a cat")).seed

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_this_machine_is_reached_without_a_proxy(
    servers: tuple[FakeTriton, FakeTritonHttp], environment: pytest.MonkeyPatch, kind: str
) -> None:
    """grpc/grpc#29718: localhost was unreachable over gRPC."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        environment.setenv(name, NOWHERE)
    for server in servers:
        assert ask(server.url, kind) == 7
        assert ask(server.url.replace("127.0.0.1", "localhost"), kind) == 7


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.9.1", "127.1", "::1", "::ffff:127.0.0.1"]
)
def test_what_this_machine_is_called(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "notlocalhost", "128.0.0.1", "::2", "gesso", "10.0.0.1"])
def test_what_it_is_not_called(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("url", ["gesso.invalid:8001", "http://gesso.invalid:8000"])
def test_an_error_names_the_proxy_and_never_its_password(environment: pytest.MonkeyPatch, url: str, kind: str) -> None:
    environment.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    where = r"gesso.invalid:800. through the proxy 127.0.0.1:9 \(http_proxy in the environment\)"
    with pytest.raises(ConnectionFailed, match=where) as caught:
        ask(url, kind)
    assert "secret" not in str(caught.value)
    environment.setenv("no_proxy", ".invalid")
    with pytest.raises(ConnectionFailed) as caught:
        ask(url.replace("gesso", "x" * 64), kind)  # too long for a name, so no name server is asked
    assert "proxy" not in str(caught.value)


class Relay:
    """A proxy that gives tunnels, and passes on requests for whole URLs, all to one server."""

    def __init__(self, port: int) -> None:
        self.heads: list[bytes] = []
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://me:se%20cret@127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()
        except OSError:
            pass

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            head = near.recv(65536)
            self.heads.append(head)
            if head.startswith(b"CONNECT"):
                near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                far.sendall(head.replace(b"http://gesso.invalid:8000", b"", 1))
            back = threading.Thread(target=self._relay, args=(far, near), daemon=True)
            back.start()
            self._relay(near, far)
            back.join()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_both_protocols_go_through_the_proxy_of_the_environment(
    servers: tuple[FakeTriton, FakeTritonHttp], environment: pytest.MonkeyPatch, kind: str
) -> None:
    ports = (servers[0].port, int(servers[1].url.rpartition(":")[2]))
    for port, url in zip(ports, ("gesso.invalid:8001", "http://gesso.invalid:8000"), strict=True):
        relay = Relay(port)
        environment.setenv("http_proxy", relay.url)
        assert ask(url, kind) == 7
        assert all(b"Basic bWU6c2UgY3JldA==" in head for head in relay.heads)
        assert all(b"gesso.invalid:" in head.split(b"\r\n")[0] for head in relay.heads)
        relay.stop()


@pytest.mark.parametrize(
    ("secure", "environ", "found"),
    [
        (False, {"http_proxy": "http://p:1"}, "p:1"),
        (False, {"HTTP_PROXY": "p:1"}, "p:1"),
        (False, {"http_proxy": "http://p:1", "HTTP_PROXY": "http://q:1"}, "p:1"),
        (False, {"http_proxy": "", "HTTP_PROXY": "http://q:1"}, None),
        (False, {"HTTP_PROXY": "http://q:1", "REQUEST_METHOD": "GET"}, None),
        (False, {"https_proxy": "http://p:1"}, None),
        (True, {"https_proxy": "http://p"}, "p:80"),
        (True, {"http_proxy": "http://p:1"}, None),
        (True, {"HTTPS_PROXY": "http://[::5]:1/"}, "[::5]:1"),
    ],
)
def test_the_scheme_and_the_case_decide_on_the_variable(
    secure: bool, environ: dict[str, str], found: str | None
) -> None:
    proxy = proxy_for("gesso.example.com", 8001, secure=secure, environ=environ)
    assert (proxy and str(proxy).split()[2]) == found


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("gesso.example.com", "example.com", True),
        ("gesso.example.com", "a, .example.com ,b", True),
        ("gesso.example.com", "*.example.com", True),
        ("gesso.example.com", "EXAMPLE.com", True),
        ("gesso.example.com.", "example.com", True),
        ("gesso.example.com", "*", True),
        ("gesso.example.com", "gesso.example.com:8001", True),
        ("gesso.example.com", "gesso.example.com:8002", False),
        ("gesso.example.com", "ample.com", False),
        ("gesso.example.com", "", False),
        ("gesso.example.com", ",", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("fd00::7", "fd00::/8", True),
        ("fd00::7", "[fd00::7]:8001", True),
        ("fd00::7", "10.0.0.0/8", False),
    ],
)
def test_hosts_of_no_proxy(host: str, no_proxy: str, direct: bool) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        environ = {"http_proxy": "http://p:1", name: no_proxy}
        assert (proxy_for(host, 8001, secure=False, environ=environ) is None) == direct


@pytest.mark.parametrize("proxy", ["socks5://p:1", "https://p:1", "http://p:99999", "http://"])
def test_a_proxy_that_cannot_be_used_is_one_line(environment: pytest.MonkeyPatch, proxy: str) -> None:
    environment.setenv("http_proxy", proxy)
    for url in ("gesso.example.com", "http://gesso.example.com"):
        with pytest.raises(InvalidRequest, match="http_proxy in the environment names a proxy") as caught:
            Client(url)
        assert caught.value.field == "url"
    Client("localhost:8001").close()


def test_a_proxy_that_refuses_is_named(environment: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            near.recv(65536)
            near.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html>no</html")
            near.close()

    threading.Thread(target=refuse, daemon=True).start()
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    environment.setenv("http_proxy", proxy)
    environment.setenv("https_proxy", proxy)
    for url in ("gesso.invalid:8001", "http://gesso.invalid", "https://gesso.invalid"):
        with pytest.raises(ConnectionFailed, match=r"through the proxy .*403"):
            ask(url, "sync")
    listener.close()
