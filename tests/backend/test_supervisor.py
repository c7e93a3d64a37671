"""Keeping Triton alive, with a script that plays Triton and does as it is told."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.fakes import WAIT_SECONDS, until
from gesso_backend.host import supervisor as supervisors
from gesso_backend.host.scratch import shm_prefix
from gesso_backend.host.supervisor import Ports, Supervisor

# Answers /v2/models/NAME/ready, has a process for each model as Triton has, and follows the files in its folder:
# `die` ends it, `unready` makes its models unready, `slow` keeps them from ever being ready, `deaf` ignores SIGTERM,
# `busy` keeps them from draining. `control/inpaint` is where its one bundle is asked to drain.
FAKE_TRITON = """
import os, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, port = Path(sys.argv[1]), int(sys.argv[2])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ready = not any((folder / name).exists() for name in ("unready", "slow"))
        self.send_response(200 if ready and self.path.endswith("/ready") else 400)
        self.end_headers()
    def log_message(self, *_):
        pass

def stop(*_):
    (folder / "stopped").write_text(str((folder / "control/inpaint/drained").exists()))
    print("I1121 00:46:05.000001 1 server.cc:1] Waiting for in-flight requests", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if (folder / "deaf").exists() else stop)
stubs = [
    subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", "import time; time.sleep(600)", str(folder / name / "1" / "model.py")]
    )
    for name in ("inpaint", "inpaint_once")
]
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
    if (folder / "control/inpaint/drain").exists() and not (folder / "busy").exists():
        (folder / "control/inpaint/drained").touch()
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
        command = [sys.executable, "-S", "-E", str(folder / "tritonserver.py"), str(folder), str(port)]
        self.folder = folder
        self._said = said
        control = folder / "control"
        (control / "inpaint").mkdir(parents=True)
        self._supervisor = Supervisor(
            command, os.environ, folder, control, ["inpaint", "inpaint_once"], Ports(http=port),
            **{"drain_seconds": WAIT_SECONDS, **options},
        )  # fmt: skip
        self._status: list[int] = []
        self._thread = threading.Thread(target=lambda: self._status.append(self._supervisor.run()), daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[str]:
        return self._said.getvalue().splitlines()

    def until_said(self, words: str, times: int = 1) -> None:
        until(lambda: sum(words in line for line in self.lines) >= times)

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]

    def stop(self) -> int:
        self._supervisor.stop()
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


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisors, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(supervisors, "BACK_OFF_SECONDS", (0.01, 0.02))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stderr = io.StringIO()
    monkeypatch.setattr(supervisors, "sys", types.SimpleNamespace(stderr=stderr))
    return stderr


@pytest.fixture
def watched(tmp_path: Path, said: io.StringIO) -> Iterator[Watched]:
    """One that is ready."""
    watched = Watched(tmp_path, said)
    watched.until_said("ready:")
    yield watched
    watched.stop()


def test_it_waits_until_the_models_are_ready_and_says_where_they_are(tmp_path: Path, said: io.StringIO) -> None:
    """Guards scripts that wait for `ready`: not a moment before, and once."""
    (tmp_path / "slow").touch()
    watched = Watched(tmp_path, said)
    watched.until_said("a model's own line")
    time.sleep(5 * supervisors.WATCH_SECONDS)
    assert not any("ready:" in line for line in watched.lines)
    (tmp_path / "slow").unlink()
    watched.until_said("metrics")
    own = [line for line in watched.lines if line.startswith("gesso-serve: ")]
    assert own[0] == "gesso-serve: ready: inpaint, inpaint_once"
    assert own[1] == "gesso-serve:   gRPC     127.0.0.1:8001"
    assert own[2].endswith("/v2/models/inpaint")
    assert watched.stop() == 0
    assert sum("ready:" in line for line in watched.lines) == 1


def test_stopping_drains_the_models_then_triton_and_leaves_nothing_behind(watched: Watched) -> None:
    """Guards SIGTERM's way through, in this order; and the processes and shared memory of a server that is gone."""
    region = Path("/dev/shm") / f"{shm_prefix(os.getpid())}test"
    region.touch()
    pids = watched.pids()
    assert all(alive(pid) for pid in pids)
    assert watched.stop() == 0
    assert (watched.folder / "stopped").read_text() == "True"  # stopped when the models were drained
    assert watched.lines[-1] == "gesso-serve: stopped"
    until(lambda: not any(alive(pid) for pid in pids))
    assert not region.exists()


def test_models_that_do_not_finish_are_not_waited_for_for_ever(
    tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards shutdown against a request without end."""
    monkeypatch.setattr(supervisors, "LAST_WORDS_SECONDS", 0.1)
    (tmp_path / "busy").touch()
    watched = Watched(tmp_path, said, drain_seconds=0.1)
    watched.until_said("ready:")
    assert watched.stop() == 0
    assert (tmp_path / "stopped").read_text() == "False"


def test_a_triton_that_will_not_stop_is_killed(
    tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards shutdown against a hung server."""
    monkeypatch.setattr(supervisors, "EXIT_SECONDS", 0.0)
    monkeypatch.setattr(supervisors, "LAST_WORDS_SECONDS", 0.1)
    (tmp_path / "deaf").touch()
    watched = Watched(tmp_path, said)
    watched.until_said("ready:")
    assert watched.stop() == 0
    assert "gesso-serve: Triton did not stop in time; killing it" in watched.lines
    until(lambda: not any(alive(pid) for pid in watched.pids()))


def test_a_triton_that_is_not_ready_yet_is_stopped_at_once(tmp_path: Path, said: io.StringIO) -> None:
    """Guards Ctrl-C during a long start: there is nobody to drain."""
    (tmp_path / "slow").touch()
    (tmp_path / "busy").touch()
    watched = Watched(tmp_path, said, drain_seconds=100 * WAIT_SECONDS)
    watched.until_said("a model's own line")
    assert watched.stop() == 0
    assert (tmp_path / "stopped").exists()


def test_a_triton_that_ends_is_started_again(watched: Watched) -> None:
    """Guards against a server that is down until somebody looks."""
    before = watched.pids()
    (watched.folder / "die").touch()
    watched.until_said("Triton ended with status 3")
    (watched.folder / "die").unlink()
    watched.until_said("ready:", times=2)
    assert "gesso-serve: Triton ended with status 3; starting Triton again in 0.01 s (restart 1)" in watched.lines
    until(lambda: not any(alive(pid) for pid in before))


def test_a_model_whose_process_is_gone_is_started_again(watched: Watched) -> None:
    """Guards a fact of Triton 24.10: with its stub killed, a model goes on calling itself ready for ever."""
    os.kill(watched.pids()[1], signal.SIGKILL)
    watched.until_said("the process of inpaint_once is gone; starting Triton again")
    watched.until_said("ready:", times=2)


def test_a_model_that_is_no_longer_ready_is_started_again(watched: Watched) -> None:
    """Guards the other way for a model to be gone."""
    (watched.folder / "unready").touch()
    watched.until_said("a model is no longer ready; starting Triton again")
    (watched.folder / "unready").unlink()
    watched.until_said("ready:", times=2)


def test_models_that_never_get_ready_are_given_up_on(
    tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a start that hangs."""
    monkeypatch.setattr(supervisors, "READY_SECONDS", 0.1)
    (tmp_path / "slow").touch()
    assert Watched(tmp_path, said).status() == 1
    assert "the models were not ready after 0 s" in said.getvalue()


def test_a_triton_that_keeps_dying_is_given_up_on_loudly(tmp_path: Path, said: io.StringIO) -> None:
    """Guards against restarting for ever in silence: back-off, a status, and Triton's own last words."""
    (tmp_path / "die").touch()
    watched = Watched(tmp_path, said)
    assert watched.status() == 1
    own = [line for line in watched.lines if line.startswith("gesso-serve: ")]
    assert own[:3] == [
        "gesso-serve: Triton ended with status 3; starting Triton again in 0.01 s (restart 1)",
        "gesso-serve: Triton ended with status 3; starting Triton again in 0.02 s (restart 2)",
        "gesso-serve: Triton ended with status 3; giving up after 2 restarts. Triton's last words:",
    ]
    assert own[-1] == "gesso-serve:   ERROR triton: no such thing"  # read to the end, though it was dead already


def test_a_triton_that_gets_ready_each_time_is_never_given_up_on(tmp_path: Path, said: io.StringIO) -> None:
    """Guards everybody against one client whose requests each end Triton: after six of them, within a minute, the
    service was gone for good."""
    watched = Watched(tmp_path, said)
    falls = 3 * len(supervisors.BACK_OFF_SECONDS)
    for number in range(falls):
        watched.until_said("gesso-serve: ready:", times=number + 1)
        (tmp_path / "fall").touch()
    watched.until_said("gesso-serve: ready:", times=falls + 1)
    assert "giving up" not in said.getvalue()
    assert f"starting Triton again in 0.02 s (restart {falls})" in said.getvalue()
    assert watched.stop() == 0


def test_a_triton_that_lived_long_gets_its_tries_back(
    tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a server that fails once a day against being given up on in a week."""
    monkeypatch.setattr(supervisors, "FORGIVEN_SECONDS", 0.0)
    (tmp_path / "die").touch()
    watched = Watched(tmp_path, said)
    watched.until_said("restart 1", times=4)
    watched.stop()
    assert "giving up" not in said.getvalue()


def test_stopping_while_it_waits_to_start_again_is_at_once(
    tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards Ctrl-C against the back-off."""
    monkeypatch.setattr(supervisors, "BACK_OFF_SECONDS", (600.0,))
    (tmp_path / "die").touch()
    watched = Watched(tmp_path, said)
    watched.until_said("starting Triton again in 600.0 s")
    assert watched.stop() == 0


def test_what_matters_of_tritons_log_is_shown_readably(watched: Watched) -> None:
    """Guards the log: Triton's prefixes, tables and talk of absent GPUs are dropped, warnings and models' own kept."""
    watched.until_said("a model's own line")
    log = [line for line in watched.lines if not line.startswith("gesso-serve: ")]
    assert log == ["WARNING triton: something to know", "WARNING inpaint: a model's own line"]


def test_verbose_shows_all_of_it(tmp_path: Path, said: io.StringIO) -> None:
    """Guards --verbose, for when it is needed."""
    watched = Watched(tmp_path, said, verbose=True)
    watched.until_said("a model's own line")
    assert "INFO triton: Started HTTPService at 127.0.0.1:18000" in watched.lines
    assert "| tab |" in watched.lines
    watched.stop()
