"""Requests from the door to the last reply: what a client hears, who is let in, and who is not let down."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from backend.fakes import (
    STEPS,
    Arrays,
    FakeClient,
    FakeClock,
    FakeEngines,
    Gate,
    code,
    expected,
    inpaint,
    inputs,
    picture,
    serving,
    until,
)
from gesso_backend.errors import RequestError
from gesso_backend.serving.events import Event
from gesso_backend.serving.metrics import NoMetrics

BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])


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
        service.submit(
            inpaint(mask_feather=2, guidance_scale=0.5) | inputs(prompt="a prompt too long", long_prompt=False), client
        )
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
        assert str(client.wait()).startswith("NOT_FOUND: scheduler: 'euller' is not one of ddim, ")
        assert job.ended
    assert engines.calls == []


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
        until(lambda: not service._admission.jobs)
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
        until(lambda: not service._admission.jobs)
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
        assert str(broken.wait()) == "INTERNAL: OSError: the server's log says why"
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
        until(lambda: not service._admission.jobs)
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
        assert str(broken.wait()) == "INTERNAL: OSError: the server's log says why"
        service.submit(inpaint(), gone)
        gone.gone = True
        assert code(gone.wait()) == "CANCELLED"
        gate.open()
        assert good.wait() is None


# Metrics


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
