"""The retry protocol by itself, without transport, thread or sleep; and as the client drives it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from client.tiny import IMAGE, MASK, PROGRESS, client, description
from gesso_client import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    Image,
    InvalidRequest,
    ModelInfo,
    NotFound,
    Progress,
    ServerError,
    Unavailable,
)
from gesso_client.request import build
from gesso_client.retry import Attempt, Backoff, Pause, attempts
from gesso_client.testing import response

BUSY = Unavailable("the queue is full")
PICTURE = response(Image(PILImage.fromarray(np.zeros((32, 48, 3), np.uint8)), 7, 0, {}))
INFO = ModelInfo.parse("inpaint", description())


class Steps:
    """The generator, with a clock that the test moves."""

    def __init__(self, retries: int = 3, **options: Any) -> None:
        self.now = 100.0
        request = build(INFO, "text_to_image", "a cat", None, None, options, live=True)  # type: ignore[arg-type]
        self.generator = attempts(request, Backoff(retries, jitter=lambda: 1.0), lambda: self.now)

    def attempt(self) -> Attempt:
        step = next(self.generator)
        assert isinstance(step, Attempt)
        return step

    def pause(self, error: Exception = BUSY) -> float:
        """The pause after an attempt that ended in `error`, and the clock moved by it."""
        step = self.generator.throw(error)
        assert isinstance(step, Pause)
        self.now += step.seconds
        return step.seconds


def test_an_attempt_with_its_picture_is_the_end() -> None:
    steps = Steps()
    attempt = steps.attempt()
    assert attempt.request.deadline is None
    assert attempt.reading.event(response(Progress(1, 1, 0))) == Progress(1, 1, 0)
    attempt.reading.event(PICTURE)
    assert next(steps.generator, None) is None


def test_an_attempt_without_its_picture_is_an_error_and_not_repeated() -> None:
    steps = Steps()
    steps.attempt()
    with pytest.raises(ServerError, match="ended after 0 of 1"):
        next(steps.generator)
    assert next(steps.generator, None) is None


def test_pauses_grow_and_attempts_end() -> None:
    steps, pauses = Steps(retries=6), []
    for _ in range(6):
        steps.attempt()
        pauses.append(steps.pause())
    steps.attempt()
    with pytest.raises(Unavailable) as caught:
        steps.pause()
    assert caught.value is BUSY  # the attempt's own error, not one about retries
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0]


def test_a_picture_after_a_pause_is_the_end() -> None:
    steps = Steps()
    steps.attempt()
    steps.pause()
    steps.attempt().reading.event(PICTURE)
    assert next(steps.generator, None) is None


def test_every_attempt_has_what_is_left_of_one_deadline() -> None:
    steps = Steps(retries=9, deadline=2.0)
    deadlines = []
    for work_s in (0.0, 0.5):
        deadlines.append(steps.attempt().request.deadline)
        steps.now += work_s
        steps.pause()
    deadlines.append(steps.attempt().request.deadline)
    assert deadlines == [2.0, 1.75, 0.75]
    with pytest.raises(Unavailable):  # 0.75 s are left, and the next pause would be 1 s
        steps.pause()


@pytest.mark.parametrize("error", [ServerError("x"), ConnectionFailed("x")])
def test_what_is_not_to_be_retried_comes_out_as_it_is(error: Exception) -> None:
    steps = Steps()
    steps.attempt()
    with pytest.raises(type(error)) as caught:
        steps.pause(error)
    assert caught.value is error


def test_no_attempt_follows_an_event() -> None:
    """The caller has seen it; a second attempt would show it twice."""
    steps = Steps()
    steps.attempt().reading.event(response(Progress(1, 2, 0)))
    with pytest.raises(Unavailable):
        steps.pause()


def test_a_bug_in_a_driver_is_not_taken_for_an_answer() -> None:
    steps = Steps()
    steps.attempt()
    with pytest.raises(ZeroDivisionError):
        steps.pause(ZeroDivisionError())


# Through the client


def test_an_unavailable_server_is_asked_again_with_growing_pauses() -> None:
    pauses: list[float] = []
    gesso, transport = client([BUSY], [BUSY], [BUSY], sleep=pauses.append, jitter=lambda: 1.0)
    assert gesso.inpaint(IMAGE, MASK, "a cat").seed == 7
    assert pauses == [0.25, 0.5, 1.0]
    assert len(transport.requests) == 4


def test_retries_are_bounded_and_jittered() -> None:
    pauses: list[float] = []
    gesso, transport = client(*[[BUSY]] * 9, retries=6, sleep=pauses.append, jitter=lambda: 0.0)
    with pytest.raises(Unavailable, match="the queue is full"):
        gesso.inpaint(IMAGE, MASK, "a cat")
    assert pauses == [0.125, 0.25, 0.5, 1.0, 2.0, 2.0]  # half of the whole pause; capped
    assert len(transport.requests) == 7


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("x"),
        NotFound("x"),
        ServerError("x"),
        Cancelled("x"),
        DeadlineExceeded("x"),
        ConnectionFailed("x"),
    ],
)
def test_nothing_else_is_retried(error: Exception) -> None:
    """After a broken connection the work may have been done: asking again could do it twice."""
    gesso, transport = client([error], sleep=lambda _: pytest.fail("must not wait"))
    with pytest.raises(type(error)):
        gesso.inpaint(IMAGE, MASK, "a cat")
    assert len(transport.requests) == 1


def test_nothing_is_retried_after_an_event() -> None:
    gesso, transport = client([PROGRESS, BUSY], sleep=lambda _: pytest.fail("must not wait"))
    with pytest.raises(Unavailable):
        list(gesso.stream(IMAGE, MASK, "a cat"))
    assert len(transport.requests) == 1


def test_all_attempts_share_one_deadline() -> None:
    now = [100.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    gesso, transport = client(*[[BUSY]] * 9, retries=9, sleep=pass_time, clock=lambda: now[0], jitter=lambda: 1.0)
    with pytest.raises(Unavailable):
        gesso.inpaint(IMAGE, MASK, "a cat", deadline=1.0)
    # After 0.25 + 0.5 s the next pause would be 1 s, and 0.25 s are left.
    assert [request.deadline for request in transport.requests] == [1.0, 0.75, 0.25]
