"""A run: a prepared request while the loop works on it, and the way of what it paints to the client."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gesso_backend.arrays import Pixels
from gesso_backend.kinds.kind import Kind, Prepared, Preview, Progress, Work
from gesso_backend.serving.events import Event
from gesso_backend.serving.job import Job
from gesso_backend.serving.report import RESPONSE

Store = Callable[[Sequence[Event]], None]


class Run:
    """Made when a request is prepared; the loop's own from then on. What is sent goes through the job."""

    def __init__(
        self,
        job: Job,
        kind: Kind[Any, Any],
        prepared: Prepared,
        work: Work,
        *,
        call_seconds: float = 0.0,
        engines: Mapping[str, str] | None = None,
        store: Store = lambda images: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """call_seconds: what one call of its work takes, run alone. engines: what runs each network.
        store: given all images of a run that ends well."""
        self.job = job
        self.account = job.account
        self.kind = kind
        self.prepared = prepared
        self.work = work
        self.calls_left = work.calls
        self.call_seconds = call_seconds
        self.branches = 0  # lives that have not returned
        self._engines = engines or {}
        self._store = store
        self._clock = clock
        self._images: list[Event] = []
        self._latest: dict[int, Preview] = {}  # of each picture

    @property
    def priority(self) -> str:
        return self.job.priority

    @property
    def submitted(self) -> float:
        return self.account.submitted

    def start(self) -> None:
        """A network call for it is about to run."""
        self.account.start(self.work.rows * self.work.pictures)

    def called(self, network: str, seconds: float, rows: int, step: bool) -> None:
        """A call that it was part of has run, of so many rows."""
        self.account.spend(network, seconds)
        if step:
            self.account.step(rows)
            self.calls_left -= 1

    def hit(self, network: str) -> None:
        """A call was answered from the cache."""
        self.account.hit(network)

    def emit(self, item: Progress | Preview) -> None:
        """Send progress or a preview; a preview whose successor is there when its turn comes is dropped."""
        if self.job.channel.only_image:
            return
        seed = self.prepared.seed_of(item.index)
        if isinstance(item, Preview):
            self._latest[item.index] = item

        def send() -> None:
            if isinstance(item, Preview):
                if self._latest[item.index] is not item:
                    return
                picture = self.kind.preview(self.prepared, item.pixels)
                self.job.channel.send(Event("preview", item.step, item.num_steps, item.index, seed, picture))
            else:
                self.job.channel.send(Event("progress", item.step, item.num_steps, item.index, seed))

        self.job.post(send)

    def painted(self, index: int, pixels: Pixels) -> None:
        """A life has painted picture `index`: finish it and send it."""

        def send() -> None:
            started = self._clock()
            output = self.kind.paint(self.prepared, pixels)
            self.account.spend("composite", self._clock() - started)
            num_steps, seed = self.prepared.num_steps, self.prepared.seed_of(index)
            report = self.kind.report(self.prepared, output, index)
            report |= self.account.report(self.priority, self._engines)
            image = Event("image", num_steps, num_steps, index, seed, output, json.dumps(report))
            self._images.append(image)
            self.job.channel.send(image)

        self.job.post(send)

    def finish(self) -> None:
        """All lives have returned: the end, after what is still to be sent."""
        self.job.post(self.account.observe)
        self.job.post(lambda: self._store(self._images))
        self.job.post(lambda: self.job.end(None))


def repeat(job: Job, images: Sequence[Event]) -> None:
    """Send what an equal request was sent, and end."""
    job.account.start()
    job.account.hit(RESPONSE)

    def send(image: Event) -> None:
        report = {**json.loads(image.report), "cached": [RESPONSE], "priority": job.priority, **job.account.times()}
        job.channel.send(dataclasses.replace(image, report=json.dumps({**report, "rows_per_step": 0.0})))

    for image in images:
        job.post(partial(send, image))
    job.post(job.account.observe)
    job.post(lambda: job.end(None))
