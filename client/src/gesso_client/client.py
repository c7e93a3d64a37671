"""The synchronous client."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Unpack

from gesso_client.events import Event
from gesso_client.job import Job
from gesso_client.models import ModelInfo, name_of
from gesso_client.process import Process
from gesso_client.request import Options, Task, build, task_of
from gesso_client.result import Result
from gesso_client.retry import Backoff
from gesso_client.source import Picture, taken
from gesso_client.stream import EventStream
from gesso_client.transport import DEFAULT_URL, connect
from gesso_client.transport.contract import Transport, without_twins

DEFAULT_MODEL = "inpaint"


class Client:
    """A gesso server. Thread-safe; one client serves any number of requests at once. Belongs to one process.

    url: "localhost:8001" or "grpc://..." (gRPC), "grpcs://..." (gRPC over TLS), "http://..." or "https://...".
    model: what requests go to unless they say `model=`.
    retries: how often a request the server answered UNAVAILABLE is sent again.
    transport, sleep, clock, jitter: for tests.

    Every call raises GessoError (errors.py). Bounds are checked before anything is sent, against what the server said
    about the model when this client first used it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str = DEFAULT_MODEL,
        retries: int = 3,
        transport: Transport | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._model = model
        self._transport = connect(url) if transport is None else transport
        self._backoff = Backoff(retries, jitter=jitter)
        self._sleep = sleep
        self._clock = clock
        self._infos: dict[str, ModelInfo] = {}
        self._infos_lock = threading.Lock()
        self._process = Process()

    def inpaint(self, image: Picture, mask: Picture | None, prompt: str, **options: Unpack[Options]) -> Result:
        """Repaint where the mask is white; every pixel where it is black comes back unchanged.

        image, mask: see pictures.py. mask=None with alpha_means="repaint" or "keep" reads it from the image's alpha.
        """
        return self._run("inpaint", prompt, image, mask, options)

    def transform(self, image: Picture, prompt: str, **options: Unpack[Options]) -> Result:
        """Image-to-image: a variation of the whole picture, the freer the higher `strength`."""
        return self._run("image_to_image", prompt, image, None, options)

    def generate(self, prompt: str, **options: Unpack[Options]) -> Result:
        """Text-to-image, of `height` by `width` pixels."""
        return self._run("text_to_image", prompt, None, None, options)

    def stream(
        self, image: Picture | None, mask: Picture | None, prompt: str, **options: Unpack[Options]
    ) -> Iterator[Event]:
        """The events of a request, as they come; an Image for every picture.

        Without a mask it is image-to-image, without an image text-to-image. Closing the iterator, or dropping it,
        cancels the request. Over HTTP there are no previews: `preview_every` raises Unsupported.
        """
        return self._events(task_of(image, mask, options), prompt, image, mask, options, live=True).events()

    def submit(self, image: Picture | None, mask: Picture | None, prompt: str, **options: Unpack[Options]) -> Job:
        """Start a request and return at once; the arguments are those of `stream`."""
        return Job(self._events(task_of(image, mask, options), prompt, image, mask, options, live=True))

    def models(self) -> tuple[ModelInfo, ...]:
        """The gesso models that are ready, with their defaults and bounds."""
        self._process.check()
        names = self._transport.model_names()
        described = ((name, self._transport.describe(name)) for name in without_twins(names))
        return tuple(ModelInfo.parse(name, text) for name, text in described if text is not None)

    def info(self, model: str | None = None) -> ModelInfo:
        """What the server says about one model; asked once per client. Raises NotFound."""
        self._process.check()
        name = name_of(model, self._model)
        with self._infos_lock:
            if name not in self._infos:
                self._infos[name] = ModelInfo.parse(name, self._transport.describe(name))
            return self._infos[name]

    def close(self) -> None:
        """Close the connection; requests in flight are cancelled. In a fork nothing happens: they are not its own."""
        if self._process.is_here():
            self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, task: Task, prompt: str, image: Picture | None, mask: Picture | None, options: Options) -> Result:
        return Result.of(self._events(task, prompt, image, mask, options, live=False).events())

    def _events(
        self, task: Task, prompt: str, image: Picture | None, mask: Picture | None, options: Options, *, live: bool
    ) -> EventStream:
        own_image, own_mask = taken(image, mask)
        request = build(self.info(options.get("model")), task, prompt, own_image, own_mask, options, live=live)
        return EventStream(self._transport, request, self._backoff, sleep=self._sleep, clock=self._clock)
