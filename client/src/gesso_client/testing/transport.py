"""Transports that reach no server, and what arrived at them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image as PILImage

from gesso_client.errors import Cancelled, ConnectionFailed, NotFound, from_server
from gesso_client.events import Event, Image, Response
from gesso_client.models import ModelInfo
from gesso_client.request import Request
from gesso_client.testing.answer import answer, refusal, response
from gesso_client.testing.description import description

PICTURES = ("image", "mask_image")  # the inputs that no description lists


class FakeCall:
    """One request that arrived."""

    def __init__(self, request: Request, script: Iterable[Step]) -> None:
        self.request = request
        self.cancelled = threading.Event()  # by its client, before it had ended
        self._script = script
        self._ended = False

    def __iter__(self) -> Iterator[Response]:
        try:
            for step in self._script:
                self._raise_if_cancelled()
                if callable(step):
                    step(self)
                else:
                    yield self._delivered(step)
            self._raise_if_cancelled()
        except Exception:
            self._ended = True
            raise
        self._ended = True  # not where the iteration was dropped: that one has still to be cancelled

    async def responses(self) -> AsyncGenerator[Response, None]:
        """The same for asyncio, where closing the generator, or cancelling its task, cancels the call."""
        try:
            for step in self._script:
                self._raise_if_cancelled()
                if not callable(step):
                    yield self._delivered(step)
                elif inspect.isawaitable(waiting := step(self)):
                    await waiting
            self._raise_if_cancelled()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise
        finally:
            self._ended = True

    def cancel(self) -> None:
        if not self._ended:
            self.cancelled.set()

    def _delivered(self, step: Event | Response | Exception) -> Response:
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Mapping):
            return step
        piece, whole = self.request.original.piece, self.request.original.image
        if isinstance(step, Image) and piece is not None and whole is not None:
            pixels = np.asarray(step.image.convert("RGB"))
            if pixels.shape == whole.shape:  # as scripts write it; a server answers with the piece
                step = replace(step, image=PILImage.fromarray(piece.of(pixels)))
        return response(step)

    def _raise_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


# One step of an answer: an event is delivered, an error raised, and a function called (asyncio awaits what it returns).
# A response is delivered as it is, for answers that no event can say.
Step = Event | Response | Exception | Callable[[FakeCall], object]


class FakeServer:
    """What both transports share.

    scripts: one for each request, in the order they come; a request without one gets the answer of answer.py.
    models: name -> description (see description.py), None for a model that is not gesso's.
    """

    def __init__(self, *scripts: Iterable[Step], models: Mapping[str, str | None] | None = None) -> None:
        self.models = dict.fromkeys(("inpaint", "inpaint_once"), description()) if models is None else dict(models)
        self.calls: list[FakeCall] = []  # one for each attempt, refused ones included
        self.descriptions = 0  # times that a client asked about a model
        self.closed = False
        self._scripts = list(scripts)
        self._lock = threading.Lock()

    @property
    def requests(self) -> list[Request]:
        return [call.request for call in self.calls]

    def _receive(self, request: Request) -> FakeCall:
        with self._lock:
            if self.closed:
                raise ConnectionFailed("the client is closed")
            call = FakeCall(request, self._answer(request))
            self.calls.append(call)
            return call

    def _answer(self, request: Request) -> Iterable[Step]:
        try:
            info = ModelInfo.parse(request.model, self._description(request.model))
        except NotFound as error:
            return [error]
        for name in request.inputs:
            if name not in info.parameters and name not in PICTURES:
                return [from_server(f"unexpected inference input '{name}' for model '{request.model}'")]
        refused = refusal(request.inputs)
        if refused is not None:
            return [refused]
        return self._scripts.pop(0) if self._scripts else answer(request.inputs, request.height, request.width)

    def _description(self, model: str) -> str | None:
        if model not in self.models:
            raise NotFound(f"unknown model {model!r}", "model")
        return self.models[model]

    def _close(self) -> None:
        with self._lock:
            self.closed = True
        for call in self.calls:
            call.cancel()


class FakeTransport(FakeServer):
    """`Client(transport=FakeTransport(...))`."""

    def run(self, request: Request) -> FakeCall:
        return self._receive(request)

    def model_names(self) -> tuple[str, ...]:
        return tuple(self.models)

    def describe(self, model: str) -> str | None:
        self.descriptions += 1
        return self._description(model)

    def close(self) -> None:
        self._close()


class AsyncFakeTransport(FakeServer):
    """`AsyncClient(transport=AsyncFakeTransport(...))`."""

    def run(self, request: Request) -> AsyncGenerator[Response, None]:
        return self._receive(request).responses()

    async def model_names(self) -> tuple[str, ...]:
        return tuple(self.models)

    async def describe(self, model: str) -> str | None:
        self.descriptions += 1
        return self._description(model)

    async def close(self) -> None:
        self._close()
