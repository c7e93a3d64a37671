"""A server of a benchmark's own: started on free ports of the loopback, waited for, stopped cleanly."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.paths import BIN

GESSO_SERVE = (str(BIN / "gesso-serve"),)
START_SECONDS = 180


class ServerError(Exception):
    pass


@dataclass(frozen=True)
class Server:
    """Addresses are "127.0.0.1:port"; pid is that of the process that was started."""

    grpc: str
    http: str
    metrics: str
    pid: int

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels; 0 when there is none."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            return metric(answer.read().decode(), name, **labels)


def metric(text: str, name: str, **labels: str) -> float:
    """The same, of a metrics page."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for has, value in lines if all(label in has.split(",") for label in wanted))


@contextmanager
def serve(
    bundle: Path,
    *options: str,
    command: Sequence[str] = GESSO_SERVE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """gesso-serve, or what stands in its place and takes its arguments. Raises ServerError."""
    http, grpc, metrics = free_ports(3)
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    process = subprocess.Popen([*command, str(bundle), *ports, *options], env={**os.environ, **(environment or {})})
    server = Server(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}", f"127.0.0.1:{metrics}", process.pid)
    try:
        wait_until_ready(process, server.http)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    if status != 0:
        raise ServerError(f"gesso-serve ended with status {status}")


def wait_until_ready(process: subprocess.Popen[bytes], http: str) -> None:
    """Until all models of a Triton can be asked. Raises ServerError when it ends, or is not ready in START_SECONDS."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise ServerError(f"the server ended with status {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise ServerError(f"the server was not ready after {START_SECONDS} s")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
