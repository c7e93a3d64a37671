"""A gesso-serve process, as the tests see it: three addresses, a log, and the processes that belong to it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

READY_SECONDS = 90.0
STOP_SECONDS = 60.0
EVENT_SECONDS = 60.0  # for what comes in a moment, on a machine that may be busy
POLL_SECONDS = 0.02
TAIL_LINES = 60
# Row caps must not depend on what else the machine does; and of two workers with a server each, each has one core.
STEADY = ("--profile-seconds=0", "--threads=1")

# gesso_requests_total{model="inpaint",outcome="ok"} 3
METRIC_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


class ServerFailed(AssertionError):
    """A server did not do what it has to; the end of its log is in the message."""


class Server:
    """Starts `gesso-serve BUNDLE` on free ports of the loopback and waits until every model answers.

    http, grpc, metrics: "127.0.0.1:port". process: the Popen of gesso-serve. log: the file with all it said.
    names: further bundles, by model name. python: whose environment it is started from;
    absent: this one's. Raises ServerFailed.
    """

    def __init__(
        self,
        log: Path,
        bundle: Path | None,
        *arguments: str,
        names: Mapping[str, Path] | None = None,
        python: Path | None = None,
    ) -> None:
        ports = free_ports(3)
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in ports)
        stems = [*(["inpaint"] if bundle else []), *(names or {})]
        self.models = [name for stem in stems for name in (stem, f"{stem}_once")]
        self.log = log
        options = [str(bundle)] if bundle else []
        options += [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
        options += [f"--name={name}={folder}" for name, folder in (names or {}).items()]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*gesso_serve(python), *options, *STEADY, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(log.parent)},  # what a killed one leaves goes with pytest's
            )

    def wait_ready(self, seconds: float = READY_SECONDS) -> Server:
        """Wait until every model has its process and is ready, the metrics, which Triton opens last, are there, and
        gesso-serve has seen it: what is stopped before that is not drained.
        """
        metrics = f"http://{self.metrics}/metrics"
        ready = [f"http://{self.http}/v2/models/{model}/ready" for model in self.models]
        self.until(lambda: len(self.stubs()) == len(ready) and all(map(answers, [*ready, metrics])), seconds)
        self.until(lambda: "gesso-serve: ready: " in self.said(), seconds)
        return self

    def until(self, condition: Callable[[], bool], seconds: float = EVENT_SECONDS) -> float:
        """Poll until `condition` holds; returns the seconds it took."""
        started = time.monotonic()
        while not condition():
            if self.process.poll() is not None:
                raise ServerFailed(f"gesso-serve ended with {self.process.returncode}\n{self.tail()}")
            if time.monotonic() - started > seconds:
                raise ServerFailed(f"not so after {seconds} s\n{self.tail()}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 when there is none yet."""
        return sum(value for key, has, value in self.samples() if key == name and labels.items() <= has.items())

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """All of /metrics: (name, labels, value)."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = (METRIC_LINE.match(line) for line in lines)
        return [(m[1], dict(re.findall(r'(\w+)="([^"]*)"', m[2] or "")), float(m[3])) for m in found if m]

    def processes(self) -> dict[int, str]:
        """pid -> command line of Triton and its Python models; they carry the name of this server's shared memory."""
        return {
            pid: command for pid, command in commands().items() if f"gesso_{self.process.pid}_" in command
        }  # orphans too: this does not ask who their parent is

    def stubs(self) -> dict[str, int]:
        """Model name -> pid of its Python process."""
        found = ((re.search(r"/([^/]+)/1/model\.py", command), pid) for pid, command in self.processes().items())
        return {match[1]: pid for match, pid in found if match}

    def shared_memory(self) -> list[Path]:
        """What this server keeps in /dev/shm."""
        return list(Path("/dev/shm").glob(f"gesso_{self.process.pid}_*"))

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        lines = self.said().splitlines()
        return "\n".join([f"--- the end of {self.log.name}", *lines[-TAIL_LINES:]])

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"did not stop in {STOP_SECONDS:.0f} s\n{self.tail()}") from None

    def kill(self) -> None:
        """End whatever is left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for region in self.shared_memory():
            region.unlink(missing_ok=True)


def gesso_serve(python: Path | None = None) -> list[str]:
    """The console script beside this interpreter, or the same of another."""
    if python is not None:
        return [str(python), "-m", "gesso_backend.host.serve"]
    return [str(Path(sys.executable).with_name("gesso-serve"))]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held until the last is found, so they differ."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def commands() -> dict[int, str]:
    """pid -> command line of every process that can be seen; zombies have none and are left out."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # it has ended
            continue
        if command:
            found[int(file.parent.name)] = command
    return found
