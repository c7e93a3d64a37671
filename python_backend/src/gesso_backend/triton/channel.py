"""The way back to one client of Triton's: its response sender, events as tensors, errors as Triton's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gesso_backend.errors import RequestError
from gesso_backend.serving.events import Event

MESSAGE = 1000  # characters: gRPC sends a message in its headers, escaped, and of more than 16 KiB sends another error
OUTPUTS = tuple(Event.__dataclass_fields__)


class TritonChannel:
    """The response sender of one request. Used by the outbox and the watch; a closed sender must not be asked."""

    only_image = False

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._closed = False

    def send(self, event: Event) -> None:
        with self._lock:
            if not self._closed:
                self._sender.send(pb_utils.InferenceResponse(tensors(event)))

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


def tensors(event: Event) -> list[Any]:
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


def _triton_error(message: str) -> Any:
    """A Triton error from `CODE: ...`; DEADLINE is ours alone, and a cancel to Triton."""
    code = message.partition(":")[0].replace("DEADLINE", "CANCELLED")
    return pb_utils.TritonError(message[:MESSAGE], getattr(pb_utils.TritonError, code))
