"""Many clients at once: everyone gets their own picture, and the bytes they would have got alone."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.conftest import Serve
from e2e.jobs import hole, inpaint, long_job, photo, text_to_image
from e2e.server import Server
from e2e.wire import (
    Event,
    Refused,
    Tensors,
    flat,
    generate_stream,
    infer_binary,
    infer_grpc,
    infer_json,
    stream_grpc,
    tensors,
)

pytestmark = pytest.mark.e2e

JOBS = 200
ALONE = 24  # of the 200, run again alone
SCHEDULERS = ("ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras")
SIZES = ((64, 64), (64, 72), (40, 56))


def mixed_job(number: int) -> dict[str, np.ndarray[Any, Any]]:
    """A request of its own kind: steps, sampler, guidance, size, mask, prompt and seed are drawn from its number."""
    choose = random.Random(number)
    height, width = choose.choice(SIZES)
    options: dict[str, Any] = {
        "prompt": f"picture number {number}",
        "num_inference_steps": choose.randint(1, 6),
        "scheduler": choose.choice(SCHEDULERS),
        "guidance_scale": choose.choice((1.0, 4.0, 7.5)),
        "seed": number,
    }
    if choose.random() < 0.2:
        return text_to_image(**options)
    if choose.random() < 0.3:
        options["strength"] = 0.9
        options["num_inference_steps"] += 1
    mask = np.roll(hole(height, width), choose.randint(-10, 10), axis=choose.randint(0, 1))
    return inpaint(height, width, **options, image=photo(height, width, seed=number), mask_image=mask)


def ask(server: Server, number: int, inputs: Tensors) -> Event:
    """Through one of four doors, in turn."""
    match number % 4:
        case 0:
            return list(stream_grpc(server.grpc, {**inputs, **tensors(preview_every=number % 3)}))[-1]
        case 1:
            return infer_grpc(server.grpc, inputs)
        case 2:
            return infer_binary(server.http, inputs)
        case _:
            return infer_json(server.http, inputs)


def test_200_mixed_jobs_at_once_each_give_the_picture_they_give_alone(server: Server) -> None:
    """Batches mix samplers, step counts and guidance; a row that reaches the wrong request, or is touched by its
    neighbours, changes bytes. 'Every request of a batch getting the first one's image' was once a published bug."""
    jobs = [mixed_job(number) for number in range(JOBS)]
    everyone_is_there = threading.Barrier(JOBS)

    def run(number: int) -> Event:
        everyone_is_there.wait(60)
        return ask(server, number, jobs[number])

    with ThreadPoolExecutor(JOBS) as pool:
        events = list(pool.map(run, range(JOBS)))

    for event, job in zip(events, jobs, strict=True):
        assert event.event == "image"
        assert event.seed == int(job["seed"][0])
        if "image" in job:
            kept = job["mask_image"] == 0
            np.testing.assert_array_equal(event.image[kept], job["image"][kept])  # its own picture, not a neighbour's
    assert len({event.image.tobytes() for event in events}) == JOBS

    rows = [event.report["rows_per_step"] for event in events]
    assert np.mean(rows) > 2  # of at most 8; alone it is 1 or 2, and how many meet depends on how fast they arrive
    assert max(rows) > 4
    for number in random.Random(0).sample(range(JOBS), ALONE):
        alone = infer_binary(server.http, jobs[number])
        assert alone.report["rows_per_step"] <= 2
        np.testing.assert_array_equal(alone.image, events[number].image)


def test_a_request_among_seven_neighbours_gives_the_bytes_it_gives_alone(server: Server) -> None:
    """Three times, with other neighbours."""
    job = inpaint(num_inference_steps=6)
    alone = infer_binary(server.http, job)
    for round_number in range(3):
        neighbours = [inpaint(seed=100 * round_number + n, num_inference_steps=30, prompt=f"{n}") for n in range(7)]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(infer_grpc, server.grpc, inputs) for inputs in [*neighbours, job]]
            event = calls[-1].result()
        assert event.report["rows_per_step"] > 2
        np.testing.assert_array_equal(event.image, alone.image)


def test_the_plain_loop_gives_the_same_bytes(server: Server, serve: Serve, tiny_bundle: Path) -> None:
    """The batched loop against the slow obvious one."""
    numbers = range(0, JOBS, 13)
    with serve(tiny_bundle, "--loop=plain") as plain, ThreadPoolExecutor(len(numbers)) as pool:
        batched = [pool.submit(ask, server, number, mixed_job(number)) for number in numbers]
        one_by_one = [ask(plain, number, mixed_job(number)) for number in numbers]
        for call, expected in zip(batched, one_by_one, strict=True):
            assert expected.report["rows_per_step"] <= 2
            np.testing.assert_array_equal(call.result().image, expected.image)


def test_a_full_queue_answers_unavailable_at_once(serve: Serve, tiny_bundle: Path) -> None:
    with serve(tiny_bundle, "--max-queue=3") as server:
        running = [stream_grpc(server.grpc, long_job(seed=seed)) for seed in range(3)]
        for events in running:
            next(events)
        with pytest.raises(Refused, match="UNAVAILABLE: the queue is full") as by_http:
            infer_binary(server.http, text_to_image())
        with pytest.raises(Refused, match="UNAVAILABLE: the queue is full") as by_grpc:
            infer_grpc(server.grpc, text_to_image())
        with pytest.raises(Refused, match="UNAVAILABLE: the queue is full"):
            list(stream_grpc(server.grpc, text_to_image()))
        with pytest.raises(Refused, match="UNAVAILABLE: the queue is full"):
            list(generate_stream(server.http, flat(text_to_image())))
        assert server.metric("gesso_active_rows") == 6  # at once: none of the three has ended
        assert by_http.value.code == 503
        assert by_grpc.value.code == "UNAVAILABLE"
        # Each is counted just after its reply.
        server.until(lambda: server.metric("gesso_requests_total", outcome="unavailable") == 4)

        running.pop().close()  # one place is free again
        server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == 1)
        assert infer_binary(server.http, text_to_image()).event == "image"
        for events in running:
            events.close()


def test_a_job_of_one_step_overtakes_jobs_of_200(server: Server) -> None:
    """Step-level batching: a short request joins the running batch instead of waiting for it to end."""
    first = threading.Event()

    def follow() -> int:
        events = stream_grpc(server.grpc, inpaint(num_inference_steps=200))
        step = 0
        for event in events:
            first.set()
            step = event.step
            if overtaken.is_set():
                events.close()
        return step

    overtaken = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(follow)
        assert first.wait(60)
        infer_binary(server.http, inpaint(num_inference_steps=1))
        overtaken.set()
        assert long.result(60) < 200
