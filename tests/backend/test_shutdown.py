"""Draining, and a loop that is stuck or dead: nobody is left without a reply."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from backend.fakes import (
    WAIT_SECONDS,
    Arrays,
    FakeClient,
    FakeClock,
    FakeEngines,
    Gate,
    code,
    expected,
    inpaint,
    serving,
    until,
)
from gesso_backend.errors import InternalError, Unavailable
from gesso_backend.serving import watch
from gesso_backend.settings import DRAIN, DRAINED

# Such a loop ends by SystemExit, the one exception that nothing else in a process minds.
DEADLY = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])


# Draining


def in_background(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def finished(thread: threading.Thread) -> bool:
    thread.join(WAIT_SECONDS)
    return not thread.is_alive()


@BOTH_LOOPS
def test_a_loop_that_is_closed_is_not_taken_for_dead(loop: str) -> None:
    """Guards the moment between the loop's end and the watch's: a clean stop must not leave with an error."""
    died = threading.Event()
    with serving(FakeEngines(), settings={"loop": loop}, on_dead=died.set) as service:
        close = service._loop.close

        def close_slowly() -> None:
            close()
            died.wait(10 * watch.ROUND_SECONDS)

        service._loop.close = close_slowly  # type: ignore[method-assign]
        service.drain()
    assert not died.is_set()


@BOTH_LOOPS
def test_draining_finishes_what_runs_and_refuses_what_comes(loop: str) -> None:
    """Guards a rolling restart: nobody's picture is lost, and newcomers are sent elsewhere."""
    gate, running, late = Gate("unet"), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": loop}) as service:
        service.submit(inpaint(), running)
        gate.wait()
        drain = in_background(service.drain)
        until(lambda: service._admission._give_up is not None)
        service.submit(inpaint(), late)
        assert str(late.wait()) == "UNAVAILABLE: the server is shutting down"
        gate.open()
        assert running.images()[0].tobytes() == expected()
        assert finished(drain)
        service.drain = lambda: None  # type: ignore[method-assign]  # once is enough


@BOTH_LOOPS
def test_draining_gives_up_on_those_who_take_too_long(loop: str) -> None:
    """Guards shutdown against the longest request: running and waiting ones are told to try elsewhere."""
    gate, running, waiting = Gate("unet"), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": loop, "drain_seconds": 0}) as service:
        job = service.submit(inpaint(), running)
        gate.wait()
        service.submit(inpaint(), waiting)
        drain = in_background(service.drain)
        assert str(waiting.wait()) == "UNAVAILABLE: the server is shutting down"
        until(lambda: job.cause is not None)
        gate.open()
        assert isinstance(running.wait(), Unavailable)
        assert finished(drain)
        service.drain = lambda: None  # type: ignore[method-assign]


def test_draining_can_be_asked_for_with_a_file_and_is_answered_with_one(tmp_path: Path) -> None:
    """Guards gesso-serve's way in: Triton 24.10 does not wait for decoupled requests, so the model has to before it."""
    gate, running, late = Gate("unet"), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"control": str(tmp_path)}) as service:
        service.submit(inpaint(), running)
        gate.wait()
        (tmp_path / DRAIN).touch()
        until(lambda: service._admission._give_up is not None)
        service.submit(inpaint(), late)
        assert code(late.wait()) == "UNAVAILABLE"
        assert not (tmp_path / DRAINED).exists()
        gate.open()
        until((tmp_path / DRAINED).exists)
        assert running.images()[0].tobytes() == expected()


def test_draining_by_file_gives_up_on_those_who_take_too_long(tmp_path: Path) -> None:
    """Guards the answer: it comes in the end, when everybody has a reply."""
    gate, running, waiting, clock = Gate("unet"), FakeClient(), FakeClient(), FakeClock()
    settings = {"control": str(tmp_path), "loop": "plain", "drain_seconds": 5.0}
    with serving(FakeEngines(gate), settings=settings, clock=clock) as service:
        job = service.submit(inpaint(), running)
        gate.wait()
        service.submit(inpaint(), waiting)
        (tmp_path / DRAIN).touch()
        until(lambda: service._admission._give_up is not None)
        assert waiting.finals == []
        clock.now += 6
        assert code(waiting.wait()) == "UNAVAILABLE"
        until(lambda: job.cause is not None)
        assert not (tmp_path / DRAINED).exists()
        gate.open()
        assert code(running.wait()) == "UNAVAILABLE"
        until((tmp_path / DRAINED).exists)


# A loop that is stuck or dead


def test_a_stuck_loop_fails_its_jobs_and_says_so_once() -> None:
    """Guards clients against waiting for ever on a hung kernel; and a reply too many when it moves again after all."""
    gate, clock, died = Gate("unet"), FakeClock(), threading.Event()
    running, waiting, after = FakeClient(), FakeClient(), FakeClient()
    deaths: list[bool] = []

    def on_dead() -> None:
        deaths.append(job.ended)
        died.set()

    with serving(FakeEngines(gate), clock=clock, on_dead=on_dead, settings={"stall_seconds": 60.0}) as service:
        job = service.submit(inpaint(), running)
        gate.wait()
        service.submit(inpaint(), waiting)
        clock.now += 59
        assert service.healthy()
        clock.now += 2
        assert died.wait(WAIT_SECONDS)
        assert not service.healthy()
        for client in (running, waiting):
            assert str(client.wait()) == "INTERNAL: the engine's loop is stuck or dead"
        gate.open()
        until(lambda: job.cause is not None or service._loop.pulse == clock.now)
        service.submit(inpaint(), after)
        assert code(after.wait()) == "INTERNAL"  # nobody watches any more, so nobody is let in
    assert deaths == [True]
    assert len(running.finals) == len(waiting.finals) == 1


def test_a_job_admitted_while_death_is_being_found_is_failed_too() -> None:
    """Guards a race once here: the watch failed the jobs it had last looked at; who came in since waited for ever."""
    gate, clock, died = Gate("unet"), FakeClock(), threading.Event()
    newcomer = FakeClient()

    class Trigger(FakeClient):
        """Asked by the watch whether it is gone, lets another in and then time pass."""

        armed = False

        def cancelled(self) -> bool:
            if self.armed:
                self.armed = False
                service.submit(inpaint(), newcomer)
                clock.now += 61
            return False

    with serving(FakeEngines(gate), clock=clock, on_dead=died.set, settings={"stall_seconds": 60.0}) as service:
        trigger = Trigger()
        service.submit(inpaint(), trigger)
        gate.wait()
        trigger.armed = True
        assert died.wait(WAIT_SECONDS)
        assert code(trigger.wait()) == "INTERNAL"
        assert code(newcomer.wait()) == "INTERNAL"
        gate.open()


@DEADLY
@BOTH_LOOPS
def test_a_dead_loop_fails_its_jobs_and_refuses_newcomers(loop: str) -> None:
    """Guards a loop that ends by something no engine error is: what waits is told, Triton is told."""
    running, waiting, after, died = FakeClient(), FakeClient(), FakeClient(), threading.Event()
    gate = Gate("unet")

    def die(network: str, arrays: Arrays) -> None:
        gate(network, arrays)
        if network == "unet":
            raise SystemExit

    with serving(FakeEngines(die), settings={"loop": loop}, on_dead=died.set) as service:
        service.submit(inpaint(), running)
        gate.wait()
        service.submit(inpaint(), waiting)
        gate.open()
        for client in (running, waiting):
            assert isinstance(client.wait(), InternalError)
        assert died.wait(WAIT_SECONDS)
        assert not service.healthy()
        service.submit(inpaint(), after)
        assert str(after.wait()) == "INTERNAL: the engine's loop is stuck or dead"


@DEADLY
@BOTH_LOOPS
def test_draining_after_the_loop_died_still_answers_everybody(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a shutdown that comes before the watch has looked: the running job once got no reply at all."""
    monkeypatch.setattr(watch, "ROUND_SECONDS", WAIT_SECONDS)  # it looks once, at the start

    def die(network: str, arrays: Arrays) -> None:
        if network == "unet":
            raise SystemExit

    running = FakeClient()
    with serving(FakeEngines(die), settings={"loop": loop}) as service:
        service.submit(inpaint(), running)
        until(lambda: not service._loop.alive)
    assert code(running.wait()) == "UNAVAILABLE"
