"""Cancels and deadlines, in every phase of a request: one reply, and the jobs after it unaffected."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from backend.fakes import (
    STEPS,
    WAIT_SECONDS,
    FakeClient,
    FakeClock,
    FakeEngines,
    FakeTokenizer,
    Gate,
    code,
    expected,
    inpaint,
    serving,
    until,
)
from gesso_backend.kinds.diffusion.tokens import Tokens
from gesso_backend.serving.events import Event

BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])


@BOTH_LOOPS
@pytest.mark.parametrize(
    ("network", "nth"),
    [("text_encoder", 1), ("vae_encoder", 1), ("vae_encoder", 2), ("unet", 1), ("unet", 2), ("unet", STEPS)],
)
def test_a_cancel_while_a_network_runs_ends_the_job_before_the_next_call(network: str, nth: int, loop: str) -> None:
    """Guards cancellation in every phase, the last step included: at most the running call is finished."""
    gate = Gate(network, nth)
    engines, client, after = FakeEngines(gate), FakeClient(), FakeClient()
    with serving(engines, settings={"loop": loop}) as service:
        job = service.submit(inpaint(), client)
        gate.wait()
        client.gone = True
        until(lambda: job.cause is not None)
        assert client.finals == []  # the engine still holds its rows
        gate.open()
        assert code(client.wait()) == "CANCELLED"
        service.submit(inpaint(), after)
        assert after.images()[0].tobytes() == expected()
    calls = {"text_encoder": 1, "vae_encoder": 2, "unet": STEPS, "vae_decoder": 1}
    done = dict.fromkeys(calls, 0)
    for name, total in calls.items():
        done[name] = nth if name == network else total
        if name == network:
            break
    assert Counter(name for name, _ in engines.calls) == Counter(done) + Counter(calls)


@BOTH_LOOPS
def test_a_cancel_while_the_last_network_runs_comes_too_late(loop: str) -> None:
    """Guards the end of a job whose picture is done: still exactly one reply, and it is the picture."""
    gate, client = Gate("vae_decoder"), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": loop}) as service:
        job = service.submit(inpaint(), client)
        gate.wait()
        client.gone = True
        until(lambda: job.cause is not None)
        gate.open()
        assert code(client.wait()) in ("OK", "CANCELLED")
        assert [event.event for event in client.events].count("image") == (client.finals == [None])


class Slow(FakeClient):
    """Holds the outbox at its first event."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.read = threading.Event(), threading.Event()

    def send(self, event: Event) -> None:
        self.reading.set()
        assert self.read.wait(WAIT_SECONDS)
        super().send(event)


def test_a_cancel_while_the_picture_is_composited_is_one_reply() -> None:
    """Guards the race between a job's end in the outbox and a cancel from the watch."""
    client, neighbour = Slow(), FakeClient()
    engines = FakeEngines()
    with serving(engines) as service:
        job = service.submit(inpaint(), client)
        until(lambda: engines.rows("vae_decoder"))  # the loop is through with it, its client has read nothing
        service.submit(inpaint(), neighbour)
        client.gone = True
        until(lambda: job.cause is not None)
        client.read.set()
        assert code(client.wait()) == "OK"
        assert client.images()[0].tobytes() == neighbour.images()[0].tobytes()
        until(lambda: not service.cancel(job.id))


@BOTH_LOOPS
def test_a_cancel_in_the_queue_is_answered_while_another_request_runs(loop: str) -> None:
    """Guards the waiting: who cancels in the queue must not wait for a place first, nor be computed afterwards."""
    gate = Gate("text_encoder")
    engines, running, waiting = FakeEngines(gate), FakeClient(), FakeClient()
    with serving(engines, settings={"loop": loop}) as service:
        service.submit(inpaint(), running)
        gate.wait()
        service.submit(inpaint(prompt="b"), waiting)
        waiting.gone = True
        assert code(waiting.wait()) == "CANCELLED"
        assert running.finals == []
        gate.open()
        assert running.images()[0].tobytes() == expected()
    assert len(engines.rows("unet")) == STEPS


class HeldTokenizer(FakeTokenizer):
    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def encode(self, pieces: Sequence[tuple[str, float]], max_chunks: int = 1) -> Tokens:
        self.reached.set()
        assert self.open.wait(WAIT_SECONDS)
        return super().encode(pieces, max_chunks)


def test_every_cancel_in_a_long_queue_is_noticed() -> None:
    """Guards the turns in which waiting requests are asked: none is left out."""
    gate = Gate("unet")
    clients = [FakeClient() for _ in range(23)]
    with serving(FakeEngines(gate), settings={"max_rows": 2}) as service:
        jobs = [service.submit(inpaint(), client) for client in clients]
        gate.wait()
        for client in clients[1:]:
            client.gone = True
        until(lambda: all(job.cause is not None for job in jobs[1:]))
        gate.open()
        assert {code(client.wait()) for client in clients[1:]} == {"CANCELLED"}
        assert clients[0].wait() is None


@BOTH_LOOPS
def test_a_cancel_while_it_is_prepared_is_answered_at_once(loop: str) -> None:
    """Guards against a prepared job entering the loop after its end."""
    tokenizer, engines, client, after = HeldTokenizer(), FakeEngines(), FakeClient(), FakeClient()
    with serving(engines, tokenizers={"text_encoder": tokenizer}, settings={"loop": loop}) as service:
        service.submit(inpaint(), client)
        assert tokenizer.reached.wait(WAIT_SECONDS)
        client.gone = True
        assert code(client.wait()) == "CANCELLED"
        service.submit(inpaint(), after)
        tokenizer.open.set()
        assert after.images()[0].tobytes() == expected()
    assert len(engines.rows("unet")) == STEPS


@BOTH_LOOPS
def test_cancelling_twice_is_cancelling_once(loop: str) -> None:
    """Guards the second final reply that a doubled cancel once meant elsewhere; and cancels by id, as inpaint_once."""
    gate, client = Gate("unet"), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": loop}) as service:
        service.submit(inpaint(), client, job_id="mine")
        gate.wait()
        assert service.cancel("mine")
        assert service.cancel("mine")
        client.gone = True
        gate.open()
        assert code(client.wait()) == "CANCELLED"
        until(lambda: not service.cancel("mine"))  # it is forgotten when it has ended
        assert not service.cancel("never was")
    assert len(client.finals) == 1


def test_a_cancel_frees_its_rows_for_the_neighbours() -> None:
    """Guards the point of cancelling: the next call is smaller, and the neighbour's picture the same."""
    gate = Gate("unet", nth=2)
    engines, stays, leaves = FakeEngines(gate), FakeClient(), FakeClient()
    with serving(engines) as service:
        service.submit(inpaint(), stays)
        job = service.submit(inpaint(prompt="b", num_images_per_prompt=3), leaves)
        gate.wait()
        leaves.gone = True
        until(lambda: job.cause is not None)
        held = len(engines.rows("unet"))
        gate.open()
        assert code(leaves.wait()) == "CANCELLED"
        assert stays.images()[0].tobytes() == expected()
    assert set(engines.rows("unet")[held + 1 :]) == {2}


# Deadlines


@BOTH_LOOPS
def test_a_deadline_ends_a_running_request_at_the_next_step(loop: str) -> None:
    """Guards the client that gave up: its rows are freed, and it is told why."""
    gate, clock = Gate("unet", 2), FakeClock()
    engines, client = FakeEngines(gate), FakeClient()
    with serving(engines, settings={"loop": loop}, clock=clock) as service:
        job = service.submit(inpaint(), client, timeout=5.0)
        gate.wait()
        clock.now += 5.0
        assert job.cause is None  # it passes after its last instant, not at it
        clock.now += 0.5
        until(lambda: job.cause is not None)
        gate.open()
        assert str(client.wait()) == "DEADLINE: the request's time limit passed"
    assert len(engines.rows("unet")) == 2


@BOTH_LOOPS
def test_a_deadline_ends_a_waiting_request_at_once(loop: str) -> None:
    """Guards against a deadline that only counts once the request runs; the one before it has none."""
    gate, clock, running, waiting = Gate("unet"), FakeClock(), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": loop}, clock=clock) as service:
        service.submit(inpaint(), running)
        gate.wait()
        service.submit(inpaint(), waiting, timeout=5.0)
        clock.now += 6
        assert code(waiting.wait()) == "DEADLINE"
        gate.open()
        assert running.wait() is None
