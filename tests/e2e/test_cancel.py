"""Cancels: whichever way a client goes, its rows are free within a step and nobody else notices.

Each test has a job of 200 steps and counts the steps that still run after the cancel.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from e2e.conftest import Serve
from e2e.jobs import inpaint, long_job, text_to_image
from e2e.server import Server
from e2e.wire import (
    Refused,
    binary_request,
    connection,
    flat,
    generate_stream,
    grpc_request,
    infer_binary,
    infer_grpc,
    infer_json,
    stream_grpc,
    stub,
    tensors,
)

pytestmark = pytest.mark.e2e

# Of the 200, at most this many may run between the cancel and the moment it is seen here: the step that is running,
# the 20 ms rhythm of the server's watch (twice for inpaint_once), and the time /metrics takes on a busy machine.
LATE_STEPS = 100

LONG_BODY = flat({**long_job(), **tensors(height=256, width=256)})


@contextmanager
def freed(server: Server, outcome: str = "cancelled") -> Iterator[Callable[[], None]]:
    """Call the yielded function right before the cancel; on leaving, the rows must be free, long before 200 steps."""
    ended = server.metric("gesso_requests_total", outcome=outcome)
    steps_before = [0.0]

    def about_to_cancel() -> None:
        server.until(lambda: server.metric("gesso_active_rows") > 0, 60)
        steps_before[0] = server.metric("gesso_step_seconds_count")

    yield about_to_cancel
    server.until(lambda: server.metric("gesso_requests_total", outcome=outcome) > ended)
    server.until(lambda: server.metric("gesso_active_rows") == 0)
    assert server.metric("gesso_step_seconds_count") - steps_before[0] < LATE_STEPS


def test_cancelling_a_grpc_stream(server: Server) -> None:
    with freed(server) as about_to_cancel:
        events = stream_grpc(server.grpc, long_job())
        next(events)
        about_to_cancel()
        events.close()


def test_cancelling_a_unary_grpc_call(server: Server) -> None:
    """A cancel does not cross Triton's BLS: inpaint_once has to tell inpaint itself."""
    with freed(server) as about_to_cancel, stub(server.grpc) as triton:
        call = triton.ModelInfer.future(grpc_request(long_job(), "inpaint_once"))
        about_to_cancel()
        assert call.cancel()


def test_cancelling_a_stream_of_inpaint_once(server: Server) -> None:
    with freed(server) as about_to_cancel, stub(server.grpc) as triton:
        call = triton.ModelStreamInfer(iter([grpc_request(long_job(), "inpaint_once")]))
        about_to_cancel()
        assert call.cancel()


def test_disconnecting_from_generate_stream(server: Server) -> None:
    with freed(server) as about_to_cancel:
        events = generate_stream(server.http, LONG_BODY)
        next(events)
        about_to_cancel()
        events.close()


def test_cancelling_several_images_frees_them_all(server: Server) -> None:
    with freed(server) as about_to_cancel:
        events = stream_grpc(server.grpc, long_job(num_images_per_prompt=3))
        next(events)
        about_to_cancel()
        events.close()


def test_a_client_killed_in_the_middle_of_its_stream(server: Server) -> None:
    """No goodbye: the operating system closes its sockets, and that has to do."""
    script = (
        "import sys; from e2e.jobs import long_job; from e2e.wire import stream_grpc\n"
        "for event in stream_grpc(sys.argv[1], long_job()): print(event.step, flush=True)"
    )
    tests = str(Path(__file__).parents[1])
    with freed(server) as about_to_cancel:
        client = subprocess.Popen(
            [sys.executable, "-c", script, server.grpc], env={"PYTHONPATH": tests}, stdout=subprocess.PIPE
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"1\n"
            about_to_cancel()
        finally:
            client.kill()
            client.communicate()


@pytest.mark.parametrize("way", ["JSON", "binary HTTP", "gRPC", "gRPC stream", "generate_stream"])
def test_the_timeout_of_a_request_is_its_deadline(server: Server, way: str) -> None:
    """Triton's own request parameter, in microseconds."""
    short = 300_000
    calls: dict[str, Callable[[], object]] = {
        "JSON": lambda: infer_json(server.http, long_job(), timeout=short),
        "binary HTTP": lambda: infer_binary(server.http, long_job(), timeout=short),
        "gRPC": lambda: infer_grpc(server.grpc, long_job(), timeout=short),
        "gRPC stream": lambda: list(stream_grpc(server.grpc, long_job(), timeout=short)),
        "generate_stream": lambda: list(generate_stream(server.http, {**LONG_BODY, "timeout": short})),
    }
    with freed(server, "deadline") as about_to_cancel, ThreadPoolExecutor(1) as pool:
        call = pool.submit(calls[way])
        about_to_cancel()
        with pytest.raises(Refused, match="DEADLINE: the request's time limit passed"):
            call.result(60)


def test_an_abandoned_http_infer_ends_at_its_timeout(server: Server) -> None:
    """Triton does not look at the connection of a plain HTTP infer, so nobody can see that its client has gone; the
    timeout is what bounds it. (Over gRPC the cancel is seen, above.)"""
    body, headers = binary_request(long_job(), timeout=300_000)
    with freed(server, "deadline") as about_to_cancel, connection(server.http) as client:
        client.request("POST", "/v2/models/inpaint_once/infer", body, headers)
        about_to_cancel()


def test_a_generous_timeout_changes_nothing(server: Server) -> None:
    picture = infer_binary(server.http, inpaint()).image
    np.testing.assert_array_equal(infer_binary(server.http, inpaint(), timeout=60_000_000).image, picture)


def test_cancelling_twice_and_after_the_end_is_harmless(server: Server) -> None:
    with freed(server) as about_to_cancel, stub(server.grpc) as triton:
        call = triton.ModelStreamInfer(iter([grpc_request(long_job(), "inpaint")]))
        about_to_cancel()
        call.cancel()
        call.cancel()
    with stub(server.grpc) as triton:
        call = triton.ModelInfer.future(grpc_request(text_to_image(), "inpaint_once"))
        call.result(60)
        call.cancel()


def test_a_cancel_at_the_last_step_ends_the_job_one_way_or_the_other(server: Server) -> None:
    before = server.metric("gesso_requests_total")
    for _ in range(5):
        events = stream_grpc(server.grpc, text_to_image())
        while next(events).step < 4:
            pass
        events.close()
    server.until(lambda: server.metric("gesso_requests_total") == before + 5)


def test_cancels_at_random_leave_the_others_bytes_alone(server: Server) -> None:
    """Every second job of 32 is cancelled at a moment of its own while all of them share batches."""
    choose = random.Random(0)
    jobs = [inpaint(seed=seed, num_inference_steps=choose.randint(8, 24)) for seed in range(32)]
    moments = [choose.uniform(0.0, 1.5) for _ in jobs]
    cancelled = server.metric("gesso_requests_total", outcome="cancelled")

    def run(index: int) -> np.ndarray[Any, Any] | None:
        if index % 2 == 0:
            return infer_grpc(server.grpc, jobs[index]).image
        with stub(server.grpc) as triton:
            call = triton.ModelInfer.future(grpc_request(jobs[index], "inpaint_once"))
            threading.Timer(moments[index], call.cancel).start()
            with suppress(grpc.FutureCancelledError):
                call.result(60)  # some end before their moment has come
        return None

    with ThreadPoolExecutor(len(jobs)) as pool:
        pictures = list(pool.map(run, range(len(jobs))))
    assert server.metric("gesso_requests_total", outcome="cancelled") > cancelled
    for index in range(0, len(jobs), 6):
        np.testing.assert_array_equal(pictures[index], infer_grpc(server.grpc, jobs[index]).image)


def test_a_queued_job_is_cancelled_at_once(serve: Serve, tiny_bundle: Path) -> None:
    """The plain loop runs one request at a time, so the second one waits; its cancel must not wait too."""
    with serve(tiny_bundle, "--loop=plain") as server:
        first = stream_grpc(server.grpc, inpaint(num_inference_steps=200))
        next(first)
        with stub(server.grpc) as triton:
            queued = triton.ModelStreamInfer(iter([grpc_request(text_to_image(), "inpaint")]))
            server.until(lambda: server.metric("gesso_queue_depth") == 1)
            queued.cancel()
            server.until(lambda: server.metric("gesso_requests_total", outcome="cancelled") == 1)
            server.until(lambda: server.metric("gesso_queue_depth") == 0)
        assert server.metric("gesso_active_rows") == 2  # the first one runs on
        assert list(first)[-1].step == 200
