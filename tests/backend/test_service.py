"""Requests from the door to the last reply: cancels, deadlines, bounds, draining, death; one reply in every case."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backend.fakes import (
    WAIT_SECONDS,
    Arrays,
    FakeClient,
    FakeClock,
    FakeEngines,
    FakeTokenizer,
    Gate,
    hole,
    inputs,
    picture,
    serving,
    until,
)
from gesso_backend import service as services
from gesso_backend.errors import InternalError, RequestError, Unavailable
from gesso_backend.events import Event
from gesso_backend.metrics import NoMetrics
from gesso_backend.settings import DRAIN, DRAINED

# Such a loop ends by SystemExit, the one exception that nothing else in a process minds.
DEADLY = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])
STEPS = 3


def inpaint(**values: Any) -> Arrays:
    """A request that calls every network: text encoder, VAE encoder twice, STEPS steps, VAE decoder."""
    return inputs(image=picture(32, 48), mask_image=hole(32, 48), num_inference_steps=STEPS, seed=11, **values)


def expected(**values: Any) -> bytes:
    """The picture of `inpaint` on a server with nothing else to do."""
    client = FakeClient()
    with serving() as service:
        service.submit(inpaint(**values), client)
        return client.images()[0].tobytes()


def code(error: RequestError | None) -> str:
    return "OK" if error is None else error.code


# What a client hears


@BOTH_LOOPS
def test_events_come_in_order_and_the_image_last(loop: str) -> None:
    """Guards the stream's grammar: steps count up by one, a preview follows its step, nothing follows the image."""
    client = FakeClient()
    with serving(settings={"loop": loop}) as service:
        service.submit(inpaint(preview_every=2, scheduler="euler"), client)
        assert client.wait() is None
    heard = [(event.event, event.step, event.num_steps) for event in client.events]
    assert heard == [("progress", 1, 3), ("progress", 2, 3), ("preview", 2, 3), ("progress", 3, 3), ("image", 3, 3)]
    assert [event.image.shape for event in client.events] == [(0, 0, 3), (0, 0, 3), (32, 48, 3), (0, 0, 3), (32, 48, 3)]
    assert {event.seed for event in client.events} == {11}
    assert [bool(event.report) for event in client.events] == [False] * 4 + [True]


@BOTH_LOOPS
def test_each_image_of_a_request_has_its_own_seed_and_progress(loop: str) -> None:
    """Guards the promise that image i is the picture of seed + i, alone or not."""
    client = FakeClient()
    with serving(settings={"loop": loop}) as service:
        service.submit(inpaint(num_images_per_prompt=3), client)
        images = client.images()
    for index in range(3):
        own = [(event.event, event.step, event.seed) for event in client.events if event.index == index]
        assert own == [("progress", step, 11 + index) for step in (1, 2, 3)] + [("image", 3, 11 + index)]
    alone = FakeClient()
    with serving() as service:
        service.submit(inpaint() | inputs(seed=13), alone)
        assert alone.images()[0].tobytes() == images[2].tobytes()


def test_the_report_tells_what_was_done() -> None:
    """Guards the numbers that the benchmarks and the demo print."""
    client, clock = FakeClient(), FakeClock()

    def tick(network: str, arrays: Arrays) -> None:
        clock.now += {"text_encoder": 1, "vae_encoder": 2, "unet": 4, "vae_decoder": 8}[network]

    with serving(FakeEngines(tick), clock=clock) as service:
        service.submit(inpaint(mask_feather=2, guidance_scale=0.5) | inputs(prompt="a prompt too long"), client)
        client.images()
    report = json.loads(client.events[-1].report)
    assert report["timings_ms"] == {
        "prepare": 0, "queue": 0, "text_encoder": 1000, "vae_encoder": 4000, "unet": 12000, "vae_decoder": 8000,
        "composite": 0,
    }  # fmt: skip
    assert report["total_ms"] == 25000
    assert report["queue_ms"] == 0
    assert report["rows_per_step"] == 1
    assert report["mask_coverage_pct"] == pytest.approx(100 * 16 * 24 / (32 * 48), abs=1e-3)
    assert report["changed_outside_mask"] == 0
    assert report["working_size"] == [32, 48]
    assert report["crop"] == [0, 0, 32, 48]
    assert report["warnings"] == ["prompt is over the limit of 8 tokens; cut: ' too long'"]
    parameters = report["parameters"]
    assert (parameters["task"], parameters["seed"], parameters["scheduler"]) == ("inpaint", 11, "ddim")
    assert (parameters["mask_feather"], parameters["guidance_scale"], parameters["strength"]) == (2, 0.5, 1.0)


def test_a_wrong_request_is_answered_without_touching_the_engines() -> None:
    """Guards validation coming first, and the refusal coming through the channel like everything else."""
    engines, client = FakeEngines(), FakeClient()
    with serving(engines) as service:
        job = service.submit(inputs(scheduler="euller"), client)
        assert str(client.wait()).startswith("NOT_FOUND: scheduler: 'euller' is not one of ddim, pndm")
        assert job.ended
    assert engines.calls == []


# Cancelling


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
        assert not service.cancel(job.id)


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

    def encode(self, prompt: str) -> tuple[npt.NDArray[np.int64], str]:
        self.reached.set()
        assert self.open.wait(WAIT_SECONDS)
        return super().encode(prompt)


@BOTH_LOOPS
def test_a_cancel_while_it_is_prepared_is_answered_at_once(loop: str) -> None:
    """Guards against a prepared job entering the loop after its end."""
    tokenizer, engines, client, after = HeldTokenizer(), FakeEngines(), FakeClient(), FakeClient()
    with serving(engines, tokenizer=tokenizer, settings={"loop": loop}) as service:
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
        assert not service.cancel("mine")
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


# Admission


def test_a_full_queue_answers_unavailable_at_once_and_recovers() -> None:
    """Guards bounded admission: the third of two is told while the engine is still busy with the first."""
    gate = Gate("text_encoder")
    clients = [FakeClient() for _ in range(4)]
    with serving(FakeEngines(gate), settings={"max_queue": 2}) as service:
        for client in clients[:3]:
            service.submit(inputs(), client)
        assert str(clients[2].wait()) == "UNAVAILABLE: the queue is full (2 requests)"
        assert clients[0].finals == clients[1].finals == []
        gate.open()
        assert clients[0].wait() is clients[1].wait() is None
        service.submit(inputs(), clients[3])
        assert clients[3].wait() is None


def test_the_pictures_in_the_queue_are_bounded_but_one_large_one_is_let_in() -> None:
    """Guards the server's memory; and against a bound that refuses a request for ever."""
    gate = Gate("text_encoder")
    large, small, refused = FakeClient(), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"max_input_mib": 1}) as service:
        service.submit(inputs(image=picture(600, 700), num_inference_steps=2), large)  # 1.2 MiB, alone
        service.submit(inputs(image=picture(16, 16), num_inference_steps=2), refused)
        assert str(refused.wait()) == "UNAVAILABLE: the queue is full (1 MiB of pictures)"
        gate.open()
        assert large.wait() is None
        service.submit(inputs(image=picture(16, 16), num_inference_steps=2), small)
        assert small.wait() is None


def test_two_requests_with_one_id_are_two_replies() -> None:
    """Guards the table of jobs: the second must neither replace the first nor take it along."""
    gate, first, second = Gate("text_encoder"), FakeClient(), FakeClient()
    with serving(FakeEngines(gate)) as service:
        service.submit(inputs(), first, job_id="same")
        service.submit(inputs(), second, job_id="same")
        assert code(second.wait()) == "INTERNAL"
        assert service.cancel("same")
        gate.open()
        assert code(first.wait()) == "CANCELLED"


# Draining


def in_background(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def finished(thread: threading.Thread) -> bool:
    thread.join(WAIT_SECONDS)
    return not thread.is_alive()


@BOTH_LOOPS
def test_draining_finishes_what_runs_and_refuses_what_comes(loop: str) -> None:
    """Guards a rolling restart: nobody's picture is lost, and newcomers are sent elsewhere."""
    gate, running, late = Gate("unet"), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": loop}) as service:
        service.submit(inpaint(), running)
        gate.wait()
        drain = in_background(service.drain)
        until(lambda: service._give_up is not None)
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
        until(lambda: service._give_up is not None)
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
        until(lambda: service._give_up is not None)
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
    monkeypatch.setattr(services, "WATCH_SECONDS", WAIT_SECONDS)  # it looks once, at the start

    def die(network: str, arrays: Arrays) -> None:
        if network == "unet":
            raise SystemExit

    running = FakeClient()
    with serving(FakeEngines(die), settings={"loop": loop}) as service:
        service.submit(inpaint(), running)
        until(lambda: not service._loop.alive)
    assert code(running.wait()) == "UNAVAILABLE"


# Clients that misbehave


@BOTH_LOOPS
@pytest.mark.parametrize("kind", ["progress", "preview", "image"])
def test_a_channel_whose_send_raises_ends_only_its_own_job(kind: str, loop: str) -> None:
    """Guards the outbox, which all clients share, against a client that is gone."""

    class Broken(FakeClient):
        def send(self, event: Event) -> None:
            if event.event == kind:
                raise OSError("broken pipe")
            super().send(event)

    broken, good = Broken(), FakeClient()
    with serving(settings={"loop": loop}) as service:
        service.submit(inpaint(preview_every=1), broken)
        service.submit(inpaint(), good)
        assert str(broken.wait()) == "INTERNAL: OSError: broken pipe"
        assert good.images()[0].tobytes() == expected()


def test_a_channel_whose_close_raises_is_forgotten() -> None:
    """Guards the queue's bound: a job whose last word could not be delivered must not hold its place."""

    class Broken(FakeClient):
        def close(self, error: RequestError | None) -> None:
            super().close(error)
            raise OSError("broken pipe")

    broken, good = Broken(), FakeClient()
    with serving(settings={"max_queue": 1}) as service:
        service.submit(inpaint(), broken)
        assert broken.wait() is None
        until(lambda: not service._jobs)
        service.submit(inpaint(), good)
        assert good.wait() is None


def test_a_channel_that_cannot_be_asked_ends_only_its_own_job() -> None:
    """Guards the watch, which once died of it: no cancel, deadline or dead loop was seen from then on."""

    class Broken(FakeClient):
        def cancelled(self) -> bool:
            raise OSError("no such sender")

    gate = Gate("text_encoder")
    broken, good, gone = Broken(), FakeClient(), FakeClient()
    with serving(FakeEngines(gate)) as service:
        service.submit(inpaint(), good)
        gate.wait()
        service.submit(inpaint(), broken)
        assert str(broken.wait()) == "INTERNAL: OSError: no such sender"
        service.submit(inpaint(), gone)
        gone.gone = True
        assert code(gone.wait()) == "CANCELLED"
        gate.open()
        assert good.wait() is None


# Everything at once


class Unreliable(FakeClient):
    """Fails at its third event."""

    def send(self, event: Event) -> None:
        if len(self.events) == 2:
            raise OSError("broken pipe")
        super().send(event)


def storm_request(rng: random.Random) -> Arrays:
    size = rng.choice([(16, 16), (16, 32), (33, 17)])
    values: dict[str, Any] = {
        "prompt": rng.choice("abc"),
        "seed": rng.randrange(5),
        "num_inference_steps": rng.randint(2, 6),
        "guidance_scale": rng.choice([1.0, 5.0]),
        "scheduler": rng.choice(["ddim", "pndm", "euler_ancestral"]),
        "num_images_per_prompt": rng.choice([1, 1, 3]),
        "preview_every": rng.choice([0, 2]),
    }
    if rng.random() < 0.6:
        values |= {"image": picture(*size), "mask_image": hole(*size) if rng.random() < 0.7 else None}
    if rng.random() < 0.1:
        values |= {"scheduler": "none such"}
    return inputs(**values)


@BOTH_LOOPS
@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_requests_cancels_and_failures_is_one_reply_each(seed: int, loop: str) -> None:
    """Guards the promise everything else rests on, where its parts meet: sixty jobs of every fate, each ended exactly
    once, nothing left behind, and whoever got a picture got their own."""
    rng = random.Random(seed)
    trouble = random.Random(seed + 1)  # used by the loop's thread alone

    def fail(network: str, arrays: Arrays) -> None:
        if trouble.random() < 0.02:
            raise RuntimeError("bad luck")

    outcomes: Counter[str] = Counter()

    class Outcomes(NoMetrics):
        def request(self, outcome: str) -> None:
            outcomes[outcome] += 1

    requests = [storm_request(rng) for _ in range(60)]
    clients = [rng.choice([FakeClient, FakeClient, FakeClient, Unreliable])() for _ in requests]
    with serving(
        FakeEngines(fail), settings={"loop": loop, "max_queue": 50, "max_rows": 4}, metrics=Outcomes()
    ) as service:
        for number, (request, client) in enumerate(zip(requests, clients, strict=True)):
            job = service.submit(request, client, timeout=rng.choice([None, None, 0.0, 0.05]), job_id=str(number))
            match rng.randrange(6):
                case 0:
                    client.gone = True
                case 1:
                    service.cancel(str(rng.randrange(number + 1)))
                case 2:
                    until(lambda job=job: job.ended or job.started)  # type: ignore[misc]
        replies = [client.wait() for client in clients]
        assert service._jobs == {}
    assert all(len(client.finals) == 1 for client in clients)
    assert Counter(code(reply).lower() for reply in replies) == outcomes
    assert outcomes["ok"] >= 5
    assert outcomes["cancelled"] >= 3
    quiet = FakeEngines()
    with serving(quiet) as service:
        for request, client, reply in zip(requests, clients, replies, strict=True):
            if reply is None:
                alone = FakeClient()
                service.submit(request, alone)
                assert [image.tobytes() for image in client.images()] == [i.tobytes() for i in alone.images()]


def test_load_is_told_and_falls_back_to_nothing() -> None:
    """Guards the gauges that scaling decisions read."""
    loads: list[tuple[int, int]] = []

    class Loads(NoMetrics):
        def load(self, active_rows: int, queue_depth: int) -> None:
            loads.append((active_rows, queue_depth))

    gate = Gate("unet")
    running, waiting = FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"loop": "plain"}, metrics=Loads()) as service:
        service.submit(inpaint(num_images_per_prompt=3), running)
        gate.wait()
        service.submit(inpaint(), waiting)
        until(lambda: (6, 1) in loads)
        gate.open()
        assert running.wait() is waiting.wait() is None
        seen = len(loads)
        until(lambda: (0, 0) in loads[seen:])


def test_the_metrics_count_every_step_and_stage() -> None:
    """Guards the histograms: a stage nobody observes looks like a stage that takes no time."""
    steps: list[int] = []
    stages: Counter[str] = Counter()

    class Recorded(NoMetrics):
        def step(self, seconds: float, rows: int) -> None:
            steps.append(rows)

        def stage(self, stage: str, seconds: float) -> None:
            stages[stage] += 1

    client = FakeClient()
    with serving(metrics=Recorded()) as service:
        service.submit(inpaint(), client)
        client.images()
    assert steps == [2] * STEPS
    names = ["queue", "prepare", "text_encoder", "vae_encoder", "unet", "vae_decoder", "composite"]
    assert stages == dict.fromkeys(names, 1)
