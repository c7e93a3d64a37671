"""The service as it runs inside Triton, without Triton: requests sent to it in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness.pictures import Pixels
from benchmarks.harness.tensors import Tensors
from gesso_backend.errors import RequestError
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.serving.events import Event
from gesso_backend.serving.service import Service
from gesso_backend.settings import Settings


@dataclass(frozen=True)
class Answer:
    """seconds: from sending the request to its picture. steps: the moments at which each step's progress came."""

    picture: Pixels
    report: str  # JSON
    seconds: float
    steps: tuple[float, ...]


class _Channel:
    only_image = False

    def __init__(self) -> None:
        self.events: list[tuple[float, Event]] = []
        self.error: RequestError | None = None
        self.done = threading.Event()

    def send(self, event: Event) -> None:
        self.events.append((time.perf_counter(), event))

    def close(self, error: RequestError | None) -> None:
        self.error = error
        self.done.set()

    def cancelled(self) -> bool:
        return False


def bundle_of(service: Service) -> DiffusionBundle:
    """The service's bundle, of the one kind that is measured."""
    bundle = service.kind.bundle
    assert isinstance(bundle, DiffusionBundle)
    return bundle


def step_inputs(bundle: DiffusionBundle, rows: int, side: int) -> Tensors:
    """Random inputs of the denoiser for pictures of `side` pixels, as float32."""
    axes, rng = bundle.axes(rows, side, bundle.token_lengths[1]), np.random.default_rng(0)
    shapes = {
        name: [axes[axis] if isinstance(axis, str) else axis for axis in port.shape]
        for name, port in bundle.denoiser_spec.inputs.items()
    }
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return inputs | {"timestep": rng.uniform(1, 999, shapes["timestep"]).astype(np.float32)}


def open_service(**settings: Any) -> Service:
    """settings: the fields of gesso-serve's `Settings`, `bundle` among them."""
    return Service.load(Settings(**settings))


def submit(service: Service, inputs: Mapping[str, Any]) -> Callable[[], Answer]:
    """Send a request; the function returned waits for its picture, or raises the request's error."""
    channel, started = _Channel(), time.perf_counter()
    service.submit(inputs, channel)

    def wait() -> Answer:
        channel.done.wait()
        if channel.error is not None:
            raise channel.error
        at, last = channel.events[-1]
        steps = tuple(moment for moment, event in channel.events if event.event == "progress")
        return Answer(last.image, last.report, at - started, steps)

    return wait
