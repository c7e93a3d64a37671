"""`inpaint_once`: the same inputs as `inpaint`, one response, for clients that want exactly one."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gesso_backend.arrays import Arrays
from gesso_backend.errors import ForwardedError, InternalError, InvalidRequest, Unavailable, as_request_error
from gesso_backend.serving.watch import REST, ROUND_SECONDS
from gesso_backend.settings import Settings
from gesso_backend.triton import secret
from gesso_backend.triton.answering import (
    CANCEL,
    JOB,
    PRIORITY,
    TARGET,
    TIMEOUT,
    AnsweringModel,
    arrays,
    log_to_stderr,
    priority,
    request_parameters,
    timeout_seconds,
)
from gesso_backend.triton.channel import OUTPUTS, TritonChannel
from gesso_backend.triton.given import model_parameters
from gesso_backend.triton.metrics import RequestCount
from gesso_backend.triton.parent import end_with_parent


class InpaintOnceModel(AnsweringModel):
    """A shim over `inpaint`: forwards the request, answers with its image. Many requests wait at once.

    A cancel does not cross Triton's BLS, so a watch thread looks for it and tells `inpaint` by the job's id.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        end_with_parent()
        log_to_stderr(args["model_name"])
        parameters = model_parameters(args)
        self._target = parameters.pop(TARGET, "inpaint")
        self._settings = Settings.from_parameters(parameters)
        self._secret = secret.shared()
        self._count = RequestCount(pb_utils.MetricFamily, args["model_name"])
        self._threads = ThreadPoolExecutor(1024, thread_name_prefix="gesso-once")  # made as needed; they only wait
        self._lock = threading.Lock()
        self._waiting: dict[str, TritonChannel] = {}
        # Bytes of tensors: while a call waits they lie in shared memory, which is small.
        self._sizes: dict[str, int] = {}
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gesso-watch", daemon=True)
        self._watcher.start()

    def _accept(self, request: Any, channel: TritonChannel) -> None:
        parameters = request_parameters(request, (TIMEOUT, PRIORITY))
        passed_on: dict[str, Any] = {PRIORITY: priority(parameters)}
        timeout = timeout_seconds(request, parameters)
        if timeout is not None:
            passed_on[TIMEOUT] = int(timeout * 1e6)
        job = self._enter(channel)  # before anything is copied
        try:
            inputs = arrays(request, self._settings.max_image_pixels)
            count = inputs.get("num_images_per_prompt")
            if count is not None and count.size and count.flat[0] > 1:
                raise InvalidRequest("num_images_per_prompt", "more than 1 needs the streaming model")
            self._hold(job, sum(array.nbytes for array in inputs.values()))
            self._threads.submit(self._forward, job, inputs, passed_on, channel)
        except BaseException:
            self._leave(job)
            raise

    def _enter(self, channel: TritonChannel) -> str:
        """A place among those that wait: as many as the target would take. Raises Unavailable."""
        job = uuid.uuid4().hex
        with self._lock:
            if len(self._waiting) >= self._settings.max_queue:
                self._count.request(Unavailable.code.lower())  # its target counts all others
                raise Unavailable(f"the queue is full ({self._settings.max_queue} requests)")
            self._waiting[job] = channel
        return job

    def _hold(self, job: str, size: int) -> None:
        """Room for the bytes of its tensors, which lie in shared memory while it waits. Raises Unavailable."""
        with self._lock:
            if self._sizes and sum(self._sizes.values()) + size > self._settings.max_input_mib * 2**20:
                self._count.request(Unavailable.code.lower())
                raise Unavailable(f"the queue is full ({self._settings.max_input_mib} MiB of pictures)")
            self._sizes[job] = size

    def _leave(self, job: str) -> None:
        with self._lock:
            del self._waiting[job]
            self._sizes.pop(job, None)

    def _forward(self, job: str, inputs: Arrays, passed_on: Mapping[str, Any], channel: TritonChannel) -> None:
        try:
            parameters = {JOB: f"{self._secret}.{job}", **passed_on}
            tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
            for response in self._call(tensors, parameters):
                if response.has_error():
                    channel.close(ForwardedError(response.error().message()))
                elif response.output_tensors():
                    channel.answer([pb_utils.Tensor(t.name(), t.as_numpy().copy()) for t in response.output_tensors()])
            channel.close(InternalError(f"{self._target} ended without an image"))
        except Exception as error:
            channel.close(as_request_error(error))
        finally:
            self._leave(job)

    def _call(self, tensors: list[Any], parameters: Mapping[str, Any]) -> Any:
        return pb_utils.InferenceRequest(
            model_name=self._target,
            inputs=tensors,
            requested_output_names=list(OUTPUTS),
            parameters=parameters,
        ).exec(decoupled=True)

    def _watch(self) -> None:
        while not self._closed.is_set():
            started = time.monotonic()
            with self._lock:
                waiting = dict(self._waiting)
            for job, channel in waiting.items():
                if channel.cancelled():  # told again each round while it waits: the first may overtake the request
                    prompt = pb_utils.Tensor("prompt", np.array([b""], np.object_))
                    with contextlib.suppress(Exception):  # a target that is gone; its jobs end by themselves
                        for _ in self._call([prompt], {CANCEL: f"{self._secret}.{job}"}):
                            pass
            self._closed.wait(max(ROUND_SECONDS, REST * (time.monotonic() - started)))

    def finalize(self) -> None:
        self._threads.shutdown()
        self._closed.set()
        self._watcher.join()
