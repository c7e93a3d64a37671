"""The two Triton models. This is the only file that knows Triton's Python API; it translates and nothing else.

`InpaintModel` (decoupled) serves; `InpaintOnceModel` gives its last response to clients that want exactly one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gesso_backend.calls import Arrays
from gesso_backend.engines.triton import network_model_name
from gesso_backend.errors import ForwardedError, InternalError, InvalidRequest, RequestError
from gesso_backend.events import Event
from gesso_backend.metrics import TritonMetrics
from gesso_backend.policy import NORMAL
from gesso_backend.service import WATCH_REST, WATCH_SECONDS, Service
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

# Request parameters. Triton's own request timeout is our deadline; over generate_stream it arrives as a parameter.
TIMEOUT = "timeout"  # microseconds
JOB = "gesso_job"  # set by inpaint_once: an id to cancel by; only the image is sent back
PRIORITY = "gesso_priority"  # interactive, normal or background
CANCEL = "gesso_cancel"  # set by inpaint_once: cancel the job of this id; the rest of the request is ignored
DESCRIPTION = "gesso"  # model parameter: what clients may know, written by gesso-serve
TARGET = "target"  # model parameter of inpaint_once: the model it is a shim over

LAST_WORDS_SECONDS = 1.0  # between failing the jobs of a dead loop and leaving the process


class AnsweringModel(ABC):
    """A model that takes every request at once and answers it later, through its channel."""

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            channel = TritonChannel(request.get_response_sender())
            try:
                self._accept(request, channel)
            except Exception as error:
                channel.close(error if isinstance(error, RequestError) else InternalError(str(error)))

    @abstractmethod
    def _accept(self, request: Any, channel: TritonChannel) -> None:
        """Begin on one request; what is raised is its answer."""


class InpaintModel(AnsweringModel):
    """The whole denoising loop as one decoupled model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        _log_to_stderr(args["model_name"])
        parameters = _model_parameters(args)
        parameters.pop(DESCRIPTION, None)
        metrics = TritonMetrics(pb_utils.MetricFamily, args["model_name"])
        settings = Settings.from_parameters(parameters)
        call = partial(_call_network, args["model_name"])
        self._service = Service.load(settings, metrics, on_dead=_leave, call=call)

    def _accept(self, request: Any, channel: TritonChannel) -> None:
        parameters = json.loads(request.parameters() or "{}")
        for name in parameters:
            if name not in (TIMEOUT, JOB, CANCEL, PRIORITY):
                raise InvalidRequest(name, "unknown parameter")
        if CANCEL in parameters:
            self._service.cancel(str(parameters[CANCEL]))
            channel.close(None)
            return
        channel.only_image = JOB in parameters
        self._service.submit(
            _arrays(request),
            channel,
            _timeout(request, parameters),
            parameters.get(JOB),
            str(parameters.get(PRIORITY, NORMAL)),
        )

    def is_ready(self) -> bool:
        """Asked by Triton releases that know it (26.03 and later); on earlier ones a dead loop ends the process."""
        return self._service.healthy()

    def finalize(self) -> None:
        self._service.drain()


class TritonChannel:
    """The response sender of one request. Used by the outbox and the watch; a closed sender must not be asked."""

    only_image = False

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._closed = False

    def send(self, event: Event) -> None:
        if self.only_image and event.event != "image":
            return
        with self._lock:
            if not self._closed:
                self._sender.send(pb_utils.InferenceResponse(_tensors(event)))

    def close(self, error: RequestError | None) -> None:
        if error is not None:
            self._last(pb_utils.InferenceResponse(error=_triton_error(str(error))))
        else:
            self._last(None)

    def answer(self, tensors: list[Any]) -> None:
        """Send the one response of a request that gets exactly one."""
        self._last(pb_utils.InferenceResponse(tensors))

    def _last(self, response: Any) -> None:
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if response is None:
                self._sender.send(flags=final)
            else:
                self._sender.send(response, flags=final)

    def cancelled(self) -> bool:
        with self._lock:
            return not self._closed and bool(self._sender.is_cancelled())


class InpaintOnceModel(AnsweringModel):
    """A shim over `inpaint`: forwards the request, answers with its image. Many requests wait at once.

    A cancel does not cross Triton's BLS, so a watch thread looks for it and tells `inpaint` by the job's id.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        _log_to_stderr(args["model_name"])
        self._target = _model_parameters(args).get(TARGET, "inpaint")
        self._threads = ThreadPoolExecutor(1024, thread_name_prefix="gesso-once")  # made as needed; they only wait
        self._lock = threading.Lock()
        self._waiting: dict[str, TritonChannel] = {}
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gesso-watch", daemon=True)
        self._watcher.start()

    def _accept(self, request: Any, channel: TritonChannel) -> None:
        parameters = json.loads(request.parameters() or "{}")
        for name in parameters:
            if name not in (TIMEOUT, PRIORITY):
                raise InvalidRequest(name, "unknown parameter")
        arrays = _arrays(request)
        count = arrays.get("num_images_per_prompt")
        if count is not None and count.size and count.flat[0] > 1:
            raise InvalidRequest("num_images_per_prompt", "more than 1 needs the streaming model")
        passed_on = {name: parameters[name] for name in (PRIORITY,) if name in parameters}
        timeout = _timeout(request, parameters)
        if timeout is not None:
            passed_on[TIMEOUT] = int(timeout * 1e6)
        self._threads.submit(self._forward, arrays, passed_on, channel)

    def _forward(
        self, arrays: Mapping[str, np.ndarray[Any, Any]], passed_on: Mapping[str, Any], channel: TritonChannel
    ) -> None:
        job = uuid.uuid4().hex
        with self._lock:
            self._waiting[job] = channel
        try:
            parameters = {JOB: job, **passed_on}
            tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items()]
            for response in self._call(tensors, parameters):
                if response.has_error():
                    channel.close(ForwardedError(response.error().message()))
                elif response.output_tensors():
                    channel.answer([pb_utils.Tensor(t.name(), t.as_numpy().copy()) for t in response.output_tensors()])
            channel.close(InternalError(f"{self._target} ended without an image"))
        except Exception as error:
            channel.close(InternalError(str(error)))
        finally:
            with self._lock:
                del self._waiting[job]

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
                        for _ in self._call([prompt], {CANCEL: job}):
                            pass
            self._closed.wait(max(WATCH_SECONDS, WATCH_REST * (time.monotonic() - started)))

    def finalize(self) -> None:
        self._threads.shutdown()
        self._closed.set()
        self._watcher.join()


def _call_network(model: str, network: str, arrays: Arrays, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Run a network that is a Triton model of its own. Raises InternalError with what it says."""
    request = pb_utils.InferenceRequest(
        model_name=network_model_name(model, network),
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in arrays.items()],
        requested_output_names=list(outputs),
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        raise InternalError(f"{network}: {response.error().message()}")
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


OUTPUTS = tuple(Event.__dataclass_fields__)


def _tensors(event: Event) -> list[Any]:
    def text(value: str) -> np.ndarray[Any, Any]:
        return np.array([value.encode()], np.object_)

    arrays = {
        "event": text(event.event),
        "step": np.array([event.step], np.int32),
        "num_steps": np.array([event.num_steps], np.int32),
        "index": np.array([event.index], np.int32),
        "image": event.image,
        "seed": np.array([event.seed], np.int64),
        "report": text(event.report),
    }
    return [pb_utils.Tensor(name, array) for name, array in arrays.items()]


def _arrays(request: Any) -> Arrays:
    """The request's tensors, copied: Triton's memory is only lent until the request is released."""
    return {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}


def _timeout(request: Any, parameters: Mapping[str, Any]) -> float | None:
    """Seconds the client gives the request, or None."""
    try:
        microseconds = int(request.timeout() or parameters.get(TIMEOUT, 0))
    except (TypeError, ValueError):
        raise InvalidRequest(TIMEOUT, f"{parameters[TIMEOUT]!r} is not a number of microseconds") from None
    return microseconds / 1e6 if microseconds > 0 else None


def _triton_error(message: str) -> Any:
    """A Triton error from `CODE: ...`; DEADLINE is ours alone, and a cancel to Triton."""
    code = message.partition(":")[0].replace("DEADLINE", "CANCELLED")
    return pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))


def _model_parameters(args: Mapping[str, str]) -> dict[str, str]:
    config = json.loads(args["model_config"])
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _leave() -> None:
    """The loop is dead and its jobs have been failed: end the process, so that Triton shows the model as not ready."""
    log.critical("the engine's loop is stuck or dead; leaving")
    time.sleep(LAST_WORDS_SECONDS)
    os._exit(70)


def _log_to_stderr(model: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(levelname)s {model}: %(message)s", force=True)
