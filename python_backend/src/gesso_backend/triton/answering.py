"""What both models share: every request is taken at once and answered later, through its channel."""

from __future__ import annotations

import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from gesso_backend.arrays import Arrays
from gesso_backend.errors import InvalidRequest, as_request_error
from gesso_backend.model.pictures import check_pixels
from gesso_backend.serving.priority import CLASS_SECONDS, NORMAL
from gesso_backend.triton.channel import TritonChannel

# Request parameters. Triton's own request timeout is our deadline; over generate_stream it arrives as a parameter.
TIMEOUT = "timeout"  # microseconds
JOB = "gesso_job"  # set by inpaint_once: the secret and an id to cancel by; only the image is sent back
PRIORITY = "gesso_priority"  # interactive, normal or background
CANCEL = "gesso_cancel"  # set by inpaint_once: the same: cancel that job; the rest of the request is ignored
QUOTED = 60  # characters of what was sent that an error says again
MAX_TIMEOUT = 10**15  # microseconds, or 31 years: what is more is a slip, and Triton cannot pass on what is much more
DESCRIPTION = "gesso"  # model parameter: what clients may know, written by gesso-serve
TARGET = "target"  # model parameter of inpaint_once: the model it is a shim over


class AnsweringModel(ABC):
    """A model that takes every request at once and answers it later, through its channel."""

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            channel = TritonChannel(request.get_response_sender())
            try:
                self._accept(request, channel)
            except Exception as error:
                channel.close(as_request_error(error))

    @abstractmethod
    def _accept(self, request: Any, channel: TritonChannel) -> None:
        """Begin on one request; what is raised is its answer."""


def request_parameters(request: Any, known: Collection[str]) -> dict[str, Any]:
    """What Triton calls the parameters of a request. Raises InvalidRequest for one that is not known."""
    parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
    for name in parameters:
        if name not in known:
            raise InvalidRequest(name[:QUOTED], "unknown parameter")
    return parameters


def arrays(request: Any, max_image_pixels: int | None = None) -> Arrays:
    """The request's tensors, copied: Triton's memory is only lent until the request is released.

    Raises InvalidRequest for a picture of more than `max_image_pixels`, before anything is copied.
    """
    lent = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    if max_image_pixels is not None:
        check_pixels(lent, max_image_pixels)
    return {name: array.copy() for name, array in lent.items()}


def timeout_seconds(request: Any, parameters: Mapping[str, Any]) -> float | None:
    """Seconds the client gives the request, or None."""
    value = request.timeout() or parameters.get(TIMEOUT, 0)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= QUOTED:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TIMEOUT:
        raise InvalidRequest(TIMEOUT, f"{quoted(value)} is not a number of microseconds from 0 to {MAX_TIMEOUT}")
    return value / 1e6 if value else None


def priority(parameters: Mapping[str, Any]) -> str:
    """The class of the request. Raises InvalidRequest."""
    value = parameters.get(PRIORITY, NORMAL)
    if not isinstance(value, str) or value not in CLASS_SECONDS:
        raise InvalidRequest("priority", f"{quoted(value)} is not one of {', '.join(CLASS_SECONDS)}")
    return value


def quoted(value: Any) -> str:
    """What was sent, as an error says it."""
    return repr(value)[:QUOTED]


def log_to_stderr(model: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(levelname)s {model}: %(message)s", force=True)
