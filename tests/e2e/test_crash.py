"""Processes that die: the jobs in flight end in an error soon, and the server comes back by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from e2e.conftest import Serve
from e2e.jobs import inpaint, long_job, text_to_image
from e2e.server import Server
from e2e.wire import Refused, binary_request, infer_binary, infer_grpc, post, stream_grpc
from gesso_backend.host.scratch import sweep

pytestmark = pytest.mark.e2e

ENDS_WITHIN = 10.0  # seconds, for a job whose process was killed
BACK_WITHIN = 60.0


@pytest.fixture(scope="module")
def mortal(serve: Serve, tiny_bundle: Path) -> Iterator[Server]:
    """A server to kill parts of."""
    with serve(tiny_bundle) as server:
        yield server


@pytest.fixture
def back(mortal: Server) -> Iterator[Server]:
    """After the test it must be back, with new processes and the same pictures."""
    before = infer_binary(mortal.http, inpaint()).image
    old = set(mortal.processes())
    yield mortal
    mortal.until(lambda: not old & set(mortal.processes()), BACK_WITHIN)
    mortal.wait_ready(BACK_WITHIN)
    np.testing.assert_array_equal(infer_binary(mortal.http, inpaint()).image, before)
    np.testing.assert_array_equal(list(stream_grpc(mortal.grpc, inpaint()))[-1].image, before)


def kill(server: Server, model: str) -> None:
    os.kill(server.stubs()[model], signal.SIGKILL)


def errors_of(server: Server, victim: str) -> tuple[list[Exception], float]:
    """Start a long job at each door, kill the victim's process, and collect how each job ended, and after how long."""

    def follow(model: str) -> None:
        list(stream_grpc(server.grpc, long_job(), model))

    def ask_http() -> None:
        response, answer = post(server.http, "/v2/models/inpaint_once/infer", *binary_request(long_job()))
        if response.status != 200:
            raise Refused(response.status, answer.decode())

    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(follow, "inpaint"),
            pool.submit(follow, "inpaint_once"),
            pool.submit(infer_grpc, server.grpc, long_job()),
            pool.submit(ask_http),
        ]
        server.until(lambda: server.metric("gesso_active_rows") == 8, 30)
        started = time.monotonic()
        kill(server, victim)
        errors = [call.exception(60) for call in calls]
        return [error for error in errors if error is not None], time.monotonic() - started


@pytest.mark.parametrize("victim", ["inpaint", "inpaint_once"])
def test_a_killed_model_process_ends_its_jobs_in_an_error_and_comes_back(back: Server, victim: str) -> None:
    """Triton 24.10 neither restarts a dead stub, nor ends its requests, nor calls the model unready."""
    errors, seconds = errors_of(back, victim)
    assert len(errors) == 4
    assert seconds < ENDS_WITHIN
    for error in errors:
        assert isinstance(error, Refused | OSError | grpc.RpcError)
    back.until(lambda: f"the process of {victim} is gone" in back.said())


def test_a_killed_triton_comes_back(back: Server) -> None:
    triton = min(set(back.processes()) - set(back.stubs().values()))
    events = stream_grpc(back.grpc, long_job())
    next(events)
    started = time.monotonic()
    os.kill(triton, signal.SIGKILL)
    with pytest.raises(Refused):
        list(events)
    assert time.monotonic() - started < ENDS_WITHIN
    back.until(lambda: "Triton ended with status -9" in back.said())


def test_nothing_of_the_dead_is_left(mortal: Server) -> None:
    """After the kills above: one Triton, two models, and the shared memory of these only."""
    infer_binary(mortal.http, text_to_image())
    assert len(mortal.processes()) == 3
    assert len(mortal.shared_memory()) == len(mortal.models)


def stop_signal(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def test_a_stopped_model_process_is_replaced(back: Server) -> None:
    """Requests hung for as long as the SIGSTOP lasted, and the model was called ready."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(infer_grpc, back.grpc, long_job())
        back.until(lambda: back.metric("gesso_active_rows") == 2, 30)
        old = set(back.processes())
        started = time.monotonic()
        stop_signal(back.stubs()["inpaint"])
        assert call.exception(60) is not None
        assert time.monotonic() - started < ENDS_WITHIN
    back.until(lambda: not old & set(back.processes()))
    back.until(lambda: "inpaint is stopped by a signal" in back.said())


@pytest.mark.slow
def test_a_stopped_triton_is_replaced(back: Server) -> None:
    stop_signal(*set(back.processes()) - set(back.stubs().values()))
    back.until(lambda: "Triton is stopped by a signal" in back.said())


@pytest.mark.slow
def test_what_was_stopped_as_a_whole_goes_on(mortal: Server) -> None:
    """Ctrl-Z of the whole group, or a laptop's lid: nothing is replaced when all of it is continued."""
    before = set(mortal.processes())
    said = mortal.said()
    group = [mortal.process.pid, *before]
    stop_signal(*group)
    time.sleep(10)
    for pid in group:
        os.kill(pid, signal.SIGCONT)
    infer_binary(mortal.http, inpaint())
    time.sleep(5)
    assert set(mortal.processes()) == before
    assert mortal.said() == said


@pytest.mark.parametrize(
    "also",
    [
        "nothing",
        pytest.param("a model's process stopped", marks=pytest.mark.slow),
        pytest.param("Triton killed", marks=pytest.mark.slow),
    ],
)
def test_nothing_outlives_a_killed_gesso_serve(serve: Serve, tiny_bundle: Path, also: str) -> None:
    """Guards against orphans that hold ports and shared memory: a model's process lived on when a unary call was in
    flight. What files are left the next start removes."""
    with serve(tiny_bundle) as server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(infer_grpc, server.grpc, long_job())
        server.until(lambda: server.metric("gesso_active_rows") == 2)
        stubs = server.stubs()
        if also == "a model's process stopped":
            stop_signal(stubs["inpaint"])
        if also == "Triton killed":
            os.kill(min(set(server.processes()) - set(stubs.values())), signal.SIGKILL)
        server.process.kill()
        server.process.wait()
        assert call.exception(60) is not None
        give_up = time.monotonic() + 30
        while server.processes() and time.monotonic() < give_up:
            time.sleep(0.05)
        assert not server.processes()
        assert server.shared_memory()
        (left,) = server.log.parent.glob("gesso-serve-*/")
        sweep(server.log.parent)
        assert not left.exists()
        assert not server.shared_memory()


def test_a_hang_up_ends_it_as_gently_as_a_ctrl_c(serve: Serve, tiny_bundle: Path) -> None:
    """Guards against a terminal that closes and leaves processes, shared memory and a scratch folder."""
    with serve(tiny_bundle) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(60) == 0
        assert not server.processes()
        assert not server.shared_memory()
        assert not list(server.log.parent.glob("gesso-serve-*"))
