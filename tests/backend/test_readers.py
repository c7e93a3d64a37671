"""Clients that do not read are hung up on: what the kernel and gRPC are told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from gesso_backend.host import readers

LISTENS = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
other = socket.socketpair()
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    print(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), flush=True)
"""


def test_a_connection_of_another_process_inherits_the_timeout() -> None:
    """Guards F3 over HTTP: a stream that nobody read was kept, and computed, for ever."""
    with subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            port = int(child.stdout.readline())
            before = len(os.listdir("/proc/self/fd"))
            try:
                readers.hang_up_on_idle(child.pid, 12.5)
            except PermissionError:
                pytest.skip("processes may not touch each other's sockets here")
            assert len(os.listdir("/proc/self/fd")) == before
            with socket.create_connection(("127.0.0.1", port)):
                assert int(child.stdout.readline()) == 12_500
        finally:
            child.kill()


def test_where_it_cannot_be_done_it_is_said() -> None:
    """Guards gesso-serve, which goes on without, in one line."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    said: list[str] = []
    readers.mind(child.pid, said.append)
    assert said == ["HTTP clients that do not read are not hung up on here (No such process)"]


def test_grpc_is_told_all_of_it_in_milliseconds() -> None:
    """Guards the units, and Triton's pool of used requests, which kept 1.9 GiB of responses for good."""
    flags = readers.grpc_flags(90.5)
    assert flags["grpc-max-connection-age-grace"] == flags["grpc-max-connection-age"] == 90_500
    assert readers.grpc_flags(3600)["grpc-max-connection-age"] == 600_000
    assert flags["grpc-keepalive-time"] + flags["grpc-keepalive-timeout"] == 1000 * readers.READER_SECONDS
    assert flags["grpc-infer-allocation-pool-size"] == 0
