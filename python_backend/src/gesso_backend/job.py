"""A job: one request on its way through the server, and the promise that it ends in exactly one final reply."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gesso_backend import mask as masks
from gesso_backend.denoise import Preview, Progress
from gesso_backend.errors import DeadlineExceeded, RequestError, as_request_error
from gesso_backend.events import Channel, Event
from gesso_backend.finish import enlarge, paint
from gesso_backend.mask import Pixels
from gesso_backend.metrics import Metrics
from gesso_backend.outbox import Outbox
from gesso_backend.policy import NORMAL
from gesso_backend.prepare import Prepared

RESPONSE = "response"  # the stage of an answer that was known as a whole


class Job:
    """Made by the service, prepared by a worker, run by the loop, heard through its channel.

    `abort` may come from any thread. A job that no loop has taken ends at once; a running one is ended by the loop
    before its next network call.
    """

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        channel: Channel,
        outbox: Outbox,
        metrics: Metrics,
        on_end: Callable[[Job], None],
        deadline: float | None = None,
        id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        priority: str = NORMAL,
    ) -> None:
        """deadline: on `clock`, in seconds. priority: one of `policy.CLASS_SECONDS`."""
        self.id = id or uuid.uuid4().hex
        self.inputs = inputs
        self.channel = channel
        self.deadline = deadline
        self.priority = priority
        self.engines: Mapping[str, str] = {}  # what runs each network; the service says it
        self.submitted = clock()
        self.step_seconds = 0.0  # of one denoiser call, run alone; the loop says it
        self.prepared: Prepared | None = None
        self._cause: RequestError | None = None
        self.input_bytes = sum(array.nbytes for array in inputs.values())
        self._outbox = outbox
        self._metrics = metrics
        self._on_end = on_end
        self._clock = clock
        self._lock = threading.Lock()
        self._taken = False  # by the loop, which then is who ends it
        self._started = False
        self._ended = False
        self._images_left = 0
        self._seconds: dict[str, float] = defaultdict(float)  # by stage
        self.keep: Callable[[Sequence[Event]], None] = lambda images: None  # told all images of a job that ended well
        self._images: list[Event] = []
        self._recalled: list[str] = []  # stages answered from a cache
        self._calls = 0  # denoiser calls this job was part of
        self._rows = 0  # rows of those calls, all jobs'
        self._steps_done = 0  # of all its images

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def cause(self) -> RequestError | None:
        """Why it has to end early; set once, and by the deadline's passing too, whoever looks first."""
        with self._lock:
            if self._cause is None and self.deadline is not None and self._clock() > self.deadline:
                self._cause = DeadlineExceeded("the request's time limit passed")
            return self._cause

    @property
    def started(self) -> bool:
        """Whether a network has run for it."""
        return self._started

    @property
    def steps_left(self) -> int:
        """Denoiser calls of all its images that have not run."""
        assert self.prepared is not None
        return self.prepared.request.num_images_per_prompt * len(self.prepared.plan.steps) - self._steps_done

    @property
    def step_rows(self) -> int:
        """Rows of one of them."""
        assert self.prepared is not None
        return self.prepared.rows

    @property
    def latent_shape(self) -> tuple[int, int]:
        assert self.prepared is not None
        return self.prepared.latent_shape

    def begin(self) -> bool:
        """Taken by the loop. False when it has ended already and is to be dropped."""
        with self._lock:
            if self._ended:
                return False
            self._taken = True
        assert self.prepared is not None, "a job is prepared before it runs"
        self._images_left = self.prepared.request.num_images_per_prompt
        return True

    def start(self) -> None:
        """Its first network call is about to run: the wait is over. Later calls do nothing."""
        if not self._started:
            self._started = True
            self.spent("queue", self._clock() - self.submitted - self._seconds["prepare"])

    def abort(self, error: RequestError) -> None:
        """Have the job end with `error`, unless it has ended or is being ended."""
        with self._lock:
            if self._cause is None:
                self._cause = error
            waiting = not self._taken
        if waiting:
            self.end(error)

    def end(self, error: BaseException | None) -> None:
        """The one final reply. Later calls do nothing."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        reply = None if error is None else as_request_error(error)

        def close() -> None:
            try:
                self.channel.close(reply)
            finally:
                self._metrics.request("ok" if reply is None else reply.code.lower())

        self._outbox.post(close)
        self._on_end(self)

    def spent(self, stage: str, seconds: float, rows: int = 0) -> None:
        """Account for a stage; rows: the rows of the denoiser's batch, if it was one."""
        self._seconds[stage] += seconds
        if rows:
            self._calls += 1
            self._rows += rows

    def recalled(self, stage: str) -> None:
        """The answer of a stage was known from an earlier request."""
        self._recalled.append(stage)
        self._outbox.post(lambda: self._metrics.recalled(stage))

    def emit(self, item: Progress | Preview) -> None:
        """Send progress or a preview."""
        assert self.prepared is not None
        self._steps_done += isinstance(item, Progress)
        prepared, seed = self.prepared, self.prepared.request.seed + item.index

        def send() -> None:
            if isinstance(item, Preview):
                picture = paint(prepared, enlarge(prepared, item.rgb))
                self.channel.send(Event("preview", item.step, item.num_steps, item.index, seed, picture))
            else:
                self.channel.send(Event("progress", item.step, item.num_steps, item.index, seed))

        self._outbox.post(self._guarded(send))

    def painted(self, index: int, work: Pixels) -> None:
        """Image `index` is decoded: composite it, send it, and end the job with the last one."""
        assert self.prepared is not None
        prepared = self.prepared

        def send() -> None:
            started = self._clock()
            output = paint(prepared, work)
            self.spent("composite", self._clock() - started)
            steps = len(prepared.plan.steps)
            seed = prepared.request.seed + index
            image = Event("image", steps, steps, index, seed, output, self._report(output, seed))
            self._images.append(image)
            self.channel.send(image)

        self._outbox.post(self._guarded(send))
        self._images_left -= 1
        if self._images_left == 0:
            self._outbox.post(self._guarded(self._observe_stages))
            self._outbox.post(self._guarded(lambda: self.keep(self._images)))
            self._outbox.post(lambda: self.end(None))

    def answer(self, images: Sequence[Event]) -> None:
        """Send what an equal request was sent, and end."""
        self.start()
        self.recalled(RESPONSE)

        def send(image: Event) -> None:
            report = {**json.loads(image.report), "cached": [RESPONSE], "priority": self.priority, **self._times()}
            self.channel.send(dataclasses.replace(image, report=json.dumps({**report, "rows_per_step": 0.0})))

        for image in images:
            self._outbox.post(self._guarded(partial(send, image)))
        self._outbox.post(self._guarded(self._observe_stages))
        self._outbox.post(lambda: self.end(None))

    def _guarded(self, send: Callable[[], None]) -> Callable[[], None]:
        """Events stop at the job's end, and a failing one is the end."""

        def action() -> None:
            if not self._ended:
                try:
                    send()
                except Exception as error:
                    self.abort(as_request_error(error))
                    self.end(error)

        return action

    def _observe_stages(self) -> None:
        for stage, seconds in self._seconds.items():
            self._metrics.stage(stage, seconds)

    def _times(self) -> dict[str, Any]:
        return {
            "timings_ms": {stage: round(seconds * 1000, 3) for stage, seconds in self._seconds.items()},
            "queue_ms": round(self._seconds["queue"] * 1000, 3),
            "total_ms": round((self._clock() - self.submitted) * 1000, 3),
        }

    def _report(self, output: Pixels, seed: int) -> str:
        assert self.prepared is not None
        prepared = self.prepared
        request, canvas = prepared.request, prepared.canvas
        report: dict[str, Any] = {
            "parameters": {**prepared.parameters, "seed": seed},
            "working_size": [canvas.work_height, canvas.work_width],
            "crop": [canvas.top, canvas.left, canvas.height, canvas.width],
            **self._times(),
            "cached": sorted(set(self._recalled)),
            "priority": self.priority,
            "engines": dict(self.engines),
            "rows_per_step": round(self._rows / self._calls, 3) if self._calls else 0.0,
            "warnings": list(prepared.warnings),
        }
        if request.image is not None and request.mask_image is not None:
            report["mask_coverage_pct"] = masks.coverage_pct(request.mask_image)
            report["changed_outside_mask"] = masks.changed_outside(request.image, output, request.mask_image)
        return json.dumps(report)
