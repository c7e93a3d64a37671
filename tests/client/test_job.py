"""Requests in the background, over a transport in memory."""

from __future__ import annotations

import threading

import pytest

from client.tiny import IMAGE, MASK, PICTURE, PROGRESS, client
from client.until import until
from gesso_client import Cancelled, Image, Progress, ServerError, Unavailable
from gesso_client.testing import FakeCall

BUSY = Unavailable("the queue is full")


def hold(call: FakeCall) -> None:
    """A server that is busy with the request until it is cancelled."""
    assert call.cancelled.wait(5)
    raise Cancelled("the request was cancelled")


def test_a_job_runs_in_the_background() -> None:
    go = threading.Event()
    progress = [Progress(step, 2, 0) for step in (1, 2)]
    gesso, _ = client([progress[0], lambda _: go.wait(5), progress[1], PICTURE])
    job = gesso.submit(IMAGE, MASK, "a cat")
    assert until(lambda: job.progress == Progress(1, 2, 0))
    assert not job.done()
    with pytest.raises(TimeoutError):
        job.result(timeout=0.01)
    go.set()
    assert job.result(timeout=5).seed == 7
    assert job.done()
    assert job.progress == Progress(2, 2, 0)
    assert job.result().image.tobytes() == job.result().image.tobytes()


def test_events_of_a_job_are_told_from_the_first_on_to_whoever_asks() -> None:
    go = threading.Event()
    gesso, _ = client([PROGRESS, lambda _: go.wait(5), PICTURE])
    job = gesso.submit(IMAGE, MASK, "a cat")
    live = job.events()
    assert next(live) == Progress(1, 1, 0)
    go.set()
    assert isinstance(next(live), Image)
    assert next(live, None) is None
    assert [type(event) for event in job.events()] == [Progress, Image]


def test_cancelling_one_job_leaves_the_others_alone() -> None:
    go = threading.Event()
    gesso, _ = client([PROGRESS, hold], [PROGRESS, lambda _: go.wait(5), PICTURE])
    cancelled, other = gesso.submit(IMAGE, MASK, "a cat"), gesso.submit(IMAGE, MASK, "a dog")
    for _ in range(2):  # twice is once
        cancelled.cancel()
    with pytest.raises(Cancelled):
        cancelled.result(timeout=5)
    with pytest.raises(Cancelled):
        list(cancelled.events())
    go.set()
    assert other.result(timeout=5).seed == 7
    other.cancel()  # too late: nothing happens
    assert other.result().seed == 7


def test_cancel_ends_the_pause_before_a_retry() -> None:
    gesso, transport = client(*[[BUSY]] * 99, retries=99, jitter=lambda: 1.0)
    job = gesso.submit(IMAGE, MASK, "a cat")
    assert until(lambda: len(transport.requests) == 2)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(timeout=0.4)  # the pause it is in lasts 0.5 s
    assert len(transport.requests) == 2


def test_a_failed_job_raises_what_happened_each_time_it_is_asked() -> None:
    gesso, _ = client([PROGRESS, ServerError("engine on fire")])
    job = gesso.submit(IMAGE, MASK, "a cat")
    for _ in range(2):
        with pytest.raises(ServerError, match="engine on fire"):
            job.result(timeout=5)
    assert job.done()


def test_a_bug_in_a_transport_does_not_hang_the_job() -> None:
    gesso, _ = client([PROGRESS, ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        gesso.submit(IMAGE, MASK, "a cat").result(timeout=5)
