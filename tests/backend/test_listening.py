"""Where gesso-serve listens: names, both kinds of addresses, and ports that are its own before Triton starts."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from gesso_backend.errors import ServeError
from gesso_backend.host import listening
from gesso_backend.host.listening import Ports

HERE = "127.0.0.1"


def fails(host: str, ports: Ports) -> str:
    with pytest.raises(ServeError) as caught, listening.claimed(listening.numeric(host), ports):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::", "::"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_an_address_is_what_the_host_names(host: str, address: str) -> None:
    """Guards IPv6, which was never ready, and names, which Triton's HTTP server does not take."""
    assert listening.numeric(host) == address


@pytest.mark.parametrize("host", ["", "256.1.1.1", "127.0.0.1:8000", "a..b", "x" * 80, "two words", "fe80::1%lo", "[]"])
def test_a_host_that_is_none_is_one_line(host: str) -> None:
    """Guards against Triton's own words, five times over, and getaddrinfo's several errors."""
    with pytest.raises(ServeError, match=r"^--host: ") as caught:
        listening.numeric(host)
    assert "\n" not in str(caught.value)


def test_an_interface_is_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `--host eth0`, without asking a name server."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert fails("eth0", Ports()) == "--host: 'eth0' is neither an address nor a name that has one"


def test_each_of_tritons_servers_is_told_in_its_own_way() -> None:
    """Guards IPv6 in Triton's HTTP library, gRPC and a URL, which write it differently."""
    assert listening.for_triton("::1") == ("ipv6:::1", "[::1]")
    assert listening.for_triton(HERE) == (HERE, HERE)
    assert (listening.bracketed("::1"), listening.bracketed(HERE)) == ("[::1]", HERE)


@pytest.mark.parametrize(("port", "words"), [(65536, "65536"), (-1, "-1"), (2**70, str(2**70))])
def test_a_port_out_of_range_is_one_line(port: int, words: str) -> None:
    """Guards against an OverflowError and its traceback."""
    assert fails(HERE, Ports(0, port, 0)) == f"--grpc-port: {words} is not between 0 and 65535"


def test_equal_ports_are_one_line() -> None:
    """Guards against a Triton that starts five times and cannot bind."""
    with listening.claimed(HERE, Ports(0, 0, 0)) as free:
        pass
    assert fails(HERE, Ports(free.http, free.grpc, free.http)) == f"--metrics-port: {free.http} is the --http-port too"


def test_port_0_is_one_that_is_free() -> None:
    """Guards tests and several servers on a machine: the ports are known before anything waits for them."""
    with listening.claimed(HERE, Ports(0, 0, 0)) as first, listening.claimed(HERE, Ports(0, 0, 0)) as second:
        ports = [first.http, first.grpc, first.metrics, second.http, second.grpc, second.metrics]
        assert all(ports)
        assert len(set(ports)) == 6


@pytest.mark.parametrize("other", [HERE, "0.0.0.0", "::", "localhost"])
def test_two_that_start_at_once_do_not_get_the_same_ports(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the second of two: both find the ports free, for neither's Triton has bound them yet (systems#141)."""
    port = os.getpid() % 2**15 + 2**14
    monkeypatch.setattr(listening, "_free", lambda address, name, asked: asked)  # whatever else this machine runs
    ports = Ports(port, port + 1, port + 2)
    with listening.claimed(HERE, ports):
        line = fails(other, Ports(port + 3, port + 1, port + 4))
        assert line.endswith(f":{port + 1} is another gesso-serve's; set --grpc-port")
    with listening.claimed(listening.numeric(other), ports) as again:
        assert again == ports


def test_any_port_is_none_that_somebody_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards several servers that start together with port 0: what one has claimed, the kernel still calls free."""
    port = os.getpid() % 2**15 + 2**14
    offered = iter([port, port, port + 1, port + 1, port + 2])
    monkeypatch.setattr(listening, "_free", lambda address, name, asked: next(offered))
    with listening.claimed(HERE, Ports(0, 0, 0)) as ports:
        assert ports == Ports(port, port + 1, port + 2)


def test_a_port_in_use_is_one_line() -> None:
    """Guards the port of anything else."""
    with socket.create_server((HERE, 0)) as taken:
        port = taken.getsockname()[1]
        message = f"{HERE}:{port} cannot be bound (Address already in use); set --http-port"
        assert fails(HERE, Ports(port, 0, 0)) == message
