"""Keeping Triton alive, with a script that plays Triton and does as it is told."""

from __future__ import annotations

import io
import os
import signal
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.fake_triton import Watched, alive
from backend.fakes import WAIT_SECONDS, until
from gesso_backend.host import supervisor as supervisors
from gesso_backend.host import triton_log


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(supervisors, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(supervisors, "BACK_OFF_SECONDS", (0.01, 0.02))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stderr = io.StringIO()
    monkeypatch.setattr(triton_log, "sys", types.SimpleNamespace(stderr=stderr))
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
    region = Path("/dev/shm") / f"{watched.scratch.regions}test"
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
    assert "gesso-serve: stopping before it was ready" in watched.lines
    assert not any("may finish" in line for line in watched.lines)


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


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path, said: io.StringIO) -> None:
    """Guards systems#141: of two servers started within a second, the second said "ready" with the first's answers."""
    (tmp_path / "other").touch()
    watched = Watched(tmp_path, said)
    watched.until_said("a model's own line")
    time.sleep(10 * supervisors.WATCH_SECONDS)
    assert not any("ready:" in line for line in watched.lines)
    (tmp_path / "other").unlink()
    watched.until_said("ready:")
    assert watched.stop() == 0


NOT_LOADED = (
    "E1121 00:46:04.879824 3613 model_lifecycle.cc:654] \"failed to load 'inpaint' version 1: Internal: BundleError: "
    'unet.onnx: no network\\n\\nAt:\\n  /model.py(31): load\\n"'
)
TAKEN = (
    'E1121 00:46:04.879824  3613 main.cc:257] "failed to start GRPC service: Unavailable - '
    "Socket '127.0.0.1:18001' already in use \""
)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (NOT_LOADED, "inpaint cannot be loaded: BundleError: unet.onnx: no network"),
        (TAKEN, "127.0.0.1:18001 is already in use; set --grpc-port"),
    ],
)
def test_a_first_start_that_cannot_succeed_is_not_tried_again(
    tmp_path: Path, said: io.StringIO, words: str, reason: str
) -> None:
    """Guards the operator's time: a bad bundle, or a port that another server was quicker to take, cost five restarts
    and as many tracebacks."""
    (tmp_path / "say").write_text(words)
    (tmp_path / "slow").touch()
    watched = Watched(tmp_path, said)
    assert watched.status() == 2
    assert watched.refusal == reason
    assert not any("triton:" in line and "something to know" not in line for line in watched.lines)
    assert not any(line.startswith("gesso-serve:") for line in watched.lines)
    assert not any(alive(pid) for pid in watched.pids())


def test_what_served_once_is_tried_again_whatever_ends_its_next_start(watched: Watched) -> None:
    """Guards a server against giving up on a machine that was short of memory for a moment."""
    (watched.folder / "say").write_text(NOT_LOADED)
    (watched.folder / "slow").touch()
    (watched.folder / "fall").touch()
    watched.until_said("inpaint cannot be loaded: BundleError: unet.onnx: no network; starting Triton again")
    (watched.folder / "say").unlink()
    (watched.folder / "slow").unlink()
    watched.until_said("ready:", times=2)


def test_a_process_that_was_lost_while_it_loaded_is_tried_again(tmp_path: Path, said: io.StringIO) -> None:
    """Guards a first start against the kernel's memory killer: what it ends is not what cannot be loaded."""
    (tmp_path / "say").write_text(NOT_LOADED.replace("BundleError: ", "Stub process 'inpaint_0_0' is not healthy. "))
    (tmp_path / "die").touch()
    watched = Watched(tmp_path, said)
    watched.until_said("ERROR triton: failed to load 'inpaint'")
    watched.until_said("starting Triton again")
    watched.stop()


def test_a_start_that_took_requests_was_a_good_one(tmp_path: Path, said: io.StringIO) -> None:
    """Guards against requests that end Triton before anybody saw it ready: after six of them the service was gone."""
    (tmp_path / "say").write_text('I1121 00:46:04.9 3613 http_server.cc:1] "Started Metrics Service at 127.0.0.1:1"')
    (tmp_path / "slow").touch()
    (tmp_path / "die").touch()
    watched = Watched(tmp_path, said)
    watched.until_said(f"(restart {3 * len(supervisors.BACK_OFF_SECONDS)})")
    assert watched.stop() == 0


@pytest.mark.parametrize("who", ["Triton", "inpaint_once"])
def test_what_somebody_stopped_is_replaced(watched: Watched, who: str) -> None:
    """Guards requests against a SIGSTOP: they hung as long as it lasted, and the model was called ready."""
    triton = int(Path(f"/proc/{watched.pids()[1]}/stat").read_text().rpartition(")")[2].split()[1])
    pid = triton if who == "Triton" else watched.pids()[1]
    os.kill(pid, signal.SIGSTOP)
    watched.until_said(f"{who} is stopped by a signal; starting Triton again")
    watched.until_said("ready:", times=2)
    until(lambda: not alive(pid))


def test_a_triton_that_is_ready_before_anybody_saw_it_is_drained(
    tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the first requests: a SIGTERM in the half second before "ready" cut them off, and said they may finish."""
    monkeypatch.setattr(supervisors, "WATCH_SECONDS", 10 * WAIT_SECONDS)
    watched = Watched(tmp_path, said)
    until(watched.readiness.ask)
    assert watched.stop() == 0
    assert "gesso-serve: stopping; running requests may finish" in watched.lines
    assert (tmp_path / "stopped").read_text() == "True"


def test_only_ctrl_c_once_more_stops_at_once(tmp_path: Path, said: io.StringIO) -> None:
    """Guards those who are in a hurry; and those whose terminal and supervisor both pass on one hang-up."""
    (tmp_path / "busy").touch()
    watched = Watched(tmp_path, said, drain_seconds=100 * WAIT_SECONDS)
    watched.until_said("ready:")
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        watched.supervisor.asked(number, None)
    watched.until_said("running requests may finish")
    time.sleep(0.1)
    assert all(alive(pid) for pid in watched.pids())
    watched.supervisor.asked(signal.SIGINT, None)
    assert watched.status() == 0
    assert watched.lines[-1] == "gesso-serve: stopped at once; what ran was cut off"
    assert not any(alive(pid) for pid in watched.pids())
    assert not (tmp_path / "stopped").exists()
