"""A script that plays Triton and does as it is told, and a supervisor over it."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from backend.fakes import WAIT_SECONDS, until
from gesso_backend.errors import ServeError
from gesso_backend.host.listening import Ports
from gesso_backend.host.readiness import Readiness
from gesso_backend.host.scratch import Scratch
from gesso_backend.host.supervisor import Supervisor

# Answers /v2 with its id, and /v2/models/NAME/ready, has a process for each model as Triton has, and follows the files
# in its folder: `die` ends it, `unready` makes its models unready, `slow` keeps them from ever being ready, `deaf`
# ignores SIGTERM, `busy` keeps them from draining, `other` has it answer by another id, `say` is what it says first.
# `control/inpaint` of its scratch folder is where its one bundle is asked to drain.
FAKE_TRITON = """
import json, os, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, scratch, port, server = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
drain, drained = scratch / "control/inpaint/drain", scratch / "control/inpaint/drained"

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ready = not any((folder / name).exists() for name in ("unready", "slow"))
        self.send_response(200 if self.path == "/v2" or ready and self.path.endswith("/ready") else 400)
        self.end_headers()
        if self.path == "/v2":
            self.wfile.write(json.dumps({"name": "other" if (folder / "other").exists() else server}).encode())
    def log_message(self, *_):
        pass

def stop(*_):
    (folder / "stopped").write_text(str(drained.exists()))
    print("I1121 00:46:05.000001 1 server.cc:1] Waiting for in-flight requests", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if (folder / "deaf").exists() else stop)
stubs = [
    subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(600)", str(script)], close_fds=False)
    for script in (scratch / "models" / name / "1" / "model.py" for name in ("inpaint", "inpaint_once"))
]
if (folder / "say").exists():
    print((folder / "say").read_text(), flush=True)
(folder / "pids").write_text(" ".join(str(stub.pid) for stub in stubs))
print('I1121 00:46:04.879820 3613 http_server.cc:4713] "Started HTTPService at 127.0.0.1:18000"', flush=True)
print("W1121 00:46:04.879821 3613 pinned_memory.cc:1] Unable to allocate pinned memory", flush=True)
print("W1121 00:46:04.879822 3613 model.cc:1] something to know", flush=True)
print("+-----+", flush=True)
print("| tab |", flush=True)
print("WARNING inpaint: a model's own line", flush=True)
if (folder / "die").exists():
    print("E1121 00:46:04.879823 3613 server.cc:1] no such thing", flush=True)
    os._exit(3)
threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever, daemon=True).start()
while not (folder / "die").exists():
    if drain.exists() and not (folder / "busy").exists():
        drained.touch()
    if (folder / "fall").exists():
        (folder / "fall").unlink()
        os._exit(3)
    time.sleep(0.01)
print("E1121 00:46:04.879823 3613 server.cc:1] told to die", flush=True)
os._exit(3)
"""


class Watched:
    """A supervisor on a thread, and what it says."""

    def __init__(self, folder: Path, said: io.StringIO, **options: Any) -> None:
        (folder / "tritonserver.py").write_text(FAKE_TRITON)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.folder = folder
        self.scratch = Scratch()
        self._said = said
        (self.scratch.control / "inpaint").mkdir(parents=True)
        told = [folder, self.scratch.folder, port, self.scratch.server]
        self.supervisor = Supervisor(
            [sys.executable, "-S", "-E", str(folder / "tritonserver.py"), *map(str, told)],
            os.environ, self.scratch, ["inpaint", "inpaint_once"], Ports(http=port),
            **{"drain_seconds": WAIT_SECONDS, **options},
        )  # fmt: skip
        self.readiness = Readiness("127.0.0.1", port, self.scratch.server, ["inpaint"])
        self._status: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self.scratch:
            try:
                self._status.append(self.supervisor.run())
            except ServeError as error:
                self._status.append(2)
                self.refusal = str(error)

    @property
    def lines(self) -> list[str]:
        return self._said.getvalue().splitlines()

    def until_said(self, words: str, times: int = 1) -> None:
        until(lambda: sum(words in line for line in self.lines) >= times)

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]

    def stop(self) -> int:
        self.supervisor.stop()
        return self.status()

    def status(self) -> int:
        """What `run` returned."""
        self._thread.join(WAIT_SECONDS)
        assert self._status, "it did not stop"
        return self._status[0]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
