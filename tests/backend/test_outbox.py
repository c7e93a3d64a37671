"""The thread that talks to clients: in order, to the end, whatever an action does."""

from __future__ import annotations

import threading

from backend.fakes import WAIT_SECONDS
from gesso_backend.serving.outbox import Outbox


def test_actions_run_in_the_order_they_were_posted() -> None:
    """Guards the order of a request's events."""
    done: list[int] = []
    outbox = Outbox()
    for number in range(100):
        outbox.post(lambda number=number: done.append(number))  # type: ignore[misc]
    outbox.close()
    assert done == list(range(100))


def test_a_failing_action_does_not_stop_the_ones_after_it() -> None:
    """Guards every other client against one whose connection broke."""
    done: list[str] = []
    outbox = Outbox()
    outbox.post(lambda: [][0])
    outbox.post(lambda: done.append("after"))
    outbox.close()
    assert done == ["after"]


def test_closing_finishes_what_the_last_actions_post_themselves() -> None:
    """Guards a final reply once lost at shutdown: a job's end, itself an action, posts the reply behind the stop."""
    outbox, closing = Outbox(), threading.Event()
    done: list[str] = []

    def end() -> None:
        assert closing.wait(WAIT_SECONDS)
        outbox.post(lambda: outbox.post(lambda: done.append("reply")))

    outbox.post(end)
    stop = threading.Thread(target=outbox.close)
    stop.start()
    while outbox._posted.empty():  # until the stop stands in line behind `end`
        pass
    closing.set()
    stop.join(WAIT_SECONDS)
    assert done == ["reply"]
