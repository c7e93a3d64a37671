"""`inpaint`: the decoupled model that serves."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gesso_backend.arrays import Arrays
from gesso_backend.engines.triton import network_model_name
from gesso_backend.errors import UNTOLD, InternalError, InvalidRequest
from gesso_backend.serving.service import Service
from gesso_backend.settings import Settings
from gesso_backend.triton import secret
from gesso_backend.triton.answering import (
    CANCEL,
    DESCRIPTION,
    JOB,
    PRIORITY,
    TIMEOUT,
    AnsweringModel,
    arrays,
    log_to_stderr,
    priority,
    request_parameters,
    timeout_seconds,
)
from gesso_backend.triton.channel import TritonChannel
from gesso_backend.triton.given import model_parameters, version_folder
from gesso_backend.triton.metrics import TritonMetrics
from gesso_backend.triton.parent import end_with_parent
from gesso_backend.triton.unread import Unread

log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 1.0  # between failing the jobs of a dead loop and leaving the process


class InpaintModel(AnsweringModel):
    """The whole denoising loop as one decoupled model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        end_with_parent()
        log_to_stderr(args["model_name"])
        parameters = model_parameters(args)
        parameters.pop(DESCRIPTION, None)
        self._secret = secret.shared()
        metrics = TritonMetrics(pb_utils.MetricFamily, args["model_name"])
        settings = Settings.of_model(parameters, version_folder(args))
        call = partial(_call_network, args["model_name"])
        unread = Unread() if settings.network_backend == "python" else lambda: 0
        self._service = Service.load(settings, metrics, on_dead=_leave, call=call, unread=unread)

    def _accept(self, request: Any, channel: TritonChannel) -> None:
        parameters = request_parameters(request, (TIMEOUT, JOB, CANCEL, PRIORITY))
        cancelled = self._told(parameters, CANCEL)
        if cancelled is not None:
            self._service.cancel(cancelled)
            channel.close(None)
            return
        job = self._told(parameters, JOB)
        channel.only_image = job is not None
        timeout, chosen = timeout_seconds(request, parameters), priority(parameters)
        self._service.check_room()  # before anything is copied
        inputs = arrays(request, self._service.max_image_pixels)
        self._service.submit(inputs, channel, timeout, job, chosen)

    def _told(self, parameters: Mapping[str, Any], name: str) -> str | None:
        """The id that `inpaint_once` says. Raises InvalidRequest when somebody else says one."""
        if name not in parameters:
            return None
        said, _, job = str(parameters[name]).partition(".")
        if not hmac.compare_digest(said.encode(errors="replace"), self._secret.encode()):
            raise InvalidRequest(name, "unknown parameter")
        return job

    def is_ready(self) -> bool:
        """Asked by Triton releases that know it (26.03 and later); on earlier ones a dead loop ends the process."""
        return self._service.healthy()

    def finalize(self) -> None:
        self._service.drain()


def _call_network(model: str, network: str, arrays: Arrays, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Run a network that is a Triton model of its own. Raises InternalError."""
    request = pb_utils.InferenceRequest(
        model_name=network_model_name(model, network),
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in arrays.items()],
        requested_output_names=list(outputs),
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        log.error("%s: %s", network, response.error().message())
        raise InternalError(f"{network} failed; {UNTOLD}")
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def _leave() -> None:
    """The loop is dead and its jobs have been failed, or Triton is full: end the process, so that gesso-serve starts
    Triton again."""
    log.critical("the engine's loop is stuck or dead, or Triton has no room; leaving")
    time.sleep(LAST_WORDS_SECONDS)
    os._exit(70)
