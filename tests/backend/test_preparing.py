"""Who is prepared when: by class, one at a time, but never a small request behind a large one."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backend.fakes import (
    WAIT_SECONDS,
    Arrays,
    FakeClient,
    FakeTokenizer,
    code,
    expected,
    fake_bundle,
    inpaint,
    serving,
    until,
)
from gesso_backend.errors import Cancelled
from gesso_backend.kinds.diffusion.diffusion import Diffusion
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.serving import preparing
from gesso_backend.serving.service import Service


class Slow(Diffusion):
    """Holds the preparation of every prompt with a gate. `begun` and `done` list prompts."""

    def __init__(self) -> None:
        super().__init__(fake_bundle(), {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]
        self.begun: list[str] = []
        self.done: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def parse(self, inputs: Arrays) -> Request:
        request = super().parse(inputs)
        self.begun.append(request.prompt)
        if request.prompt in self.gates:
            assert self.gates[request.prompt].wait(WAIT_SECONDS)
        return request

    def prepare(self, request: Request) -> Any:
        self.done.append(request.prompt)
        return super().prepare(request)


@pytest.fixture
def kind() -> Slow:
    return Slow()


@pytest.fixture
def service(kind: Slow, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """One to which more than 5,000 bytes are a large request: `inpaint` is below, `large` above."""
    monkeypatch.setattr(preparing, "LIGHT_BYTES", inpaint()["image"].nbytes + inpaint()["mask_image"].nbytes + 100)
    with serving(kind=kind) as made:
        yield made
        for gate in kind.gates.values():
            gate.set()


def large(**values: Any) -> Arrays:
    image = np.zeros((128, 128, 3), np.uint8)
    return inpaint(**values) | {"image": image, "mask_image": np.full((128, 128), 255, np.uint8)}


def held(kind: Slow, prompt: str) -> threading.Event:
    return kind.gates.setdefault(prompt, threading.Event())


def test_a_small_request_is_not_behind_a_large_one(service: Service, kind: Slow) -> None:
    """Guards the interactive user: one thread, in order of arrival, held a small picture up for seconds while a large
    background one was prepared. Its bytes are as ever."""
    slow, quick = FakeClient(), FakeClient()
    gate = held(kind, "slow")
    service.submit(large(prompt="slow"), slow, priority="background")
    until(lambda: kind.begun == ["slow"])
    service.submit(inpaint(), quick)
    assert quick.images()[0].tobytes() == expected()
    assert kind.done == ["a"]
    gate.set()
    assert code(slow.wait()) == "OK"


def test_an_interactive_large_request_is_not_behind_a_background_one(service: Service, kind: Slow) -> None:
    """Guards the classes: they decide here too, not size alone."""
    slow, normal, urgent = FakeClient(), FakeClient(), FakeClient()
    gate = held(kind, "slow")
    service.submit(large(prompt="slow"), slow)
    until(lambda: kind.begun == ["slow"])
    service.submit(large(prompt="n"), normal)  # of the same class: after it
    service.submit(large(prompt="u"), urgent, priority="interactive")
    assert code(urgent.wait()) == "OK"
    assert kind.begun == ["slow", "u"]
    gate.set()
    assert code(normal.wait()) == "OK"


def test_those_that_wait_go_by_class_then_by_arrival(service: Service, kind: Slow) -> None:
    """Guards the order, in which small requests are still one after another: the loop sees them as they came."""
    clients = [FakeClient() for _ in range(6)]
    gate = held(kind, "0")
    for number, (client, priority) in enumerate(
        zip(clients, ["normal", "background", "normal", "interactive", "normal", "interactive"], strict=True)
    ):
        service.submit(inpaint(prompt=str(number)), client, priority=priority)
        until(lambda: kind.begun)
    gate.set()
    assert [code(client.wait()) for client in clients] == ["OK"] * 6
    assert kind.done == ["0", "3", "5", "2", "4", "1"]


def test_a_cancel_ends_a_preparation_before_its_next_stage(service: Service, kind: Slow) -> None:
    """Guards the processor: what nobody wants any more is not worked out to its end."""
    client = FakeClient()
    gate = held(kind, "a")
    job = service.submit(inpaint(), client)
    until(lambda: kind.begun)
    job.abort(Cancelled("the client cancelled"))
    assert code(client.wait()) == "CANCELLED"
    gate.set()
    after = FakeClient()
    service.submit(inpaint(prompt="b"), after)
    assert code(after.wait()) == "OK"
    assert kind.done == ["b"]


def test_a_cancelled_request_that_waits_is_let_go_at_once(service: Service, kind: Slow) -> None:
    """Guards memory: a flood of large requests that are cancelled while another is prepared would pile up behind it,
    outside every bound, since what has ended does not count."""
    gate = held(kind, "slow")
    service.submit(inpaint(prompt="slow"), FakeClient())
    until(lambda: kind.begun)
    waiting = inpaint(prompt="b")
    image, client = weakref.ref(waiting["image"]), FakeClient()
    job = service.submit(waiting, client)
    del waiting
    job.abort(Cancelled("the client cancelled"))
    assert code(client.wait()) == "CANCELLED"
    gc.collect()
    assert image() is None
    gate.set()
