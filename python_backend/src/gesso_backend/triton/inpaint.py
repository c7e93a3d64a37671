"""`inpaint`: the decoupled model that serves."""

from __future__ import annotations

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
from gesso_backend.errors import InternalError
from gesso_backend.serving.priority import NORMAL
from gesso_backend.serving.service import Service
from gesso_backend.settings import Settings
from gesso_backend.triton.answering import (
    CANCEL,
    DESCRIPTION,
    JOB,
    PRIORITY,
    TIMEOUT,
    AnsweringModel,
    arrays,
    log_to_stderr,
    model_parameters,
    request_parameters,
    timeout_seconds,
    version_folder,
)
from gesso_backend.triton.channel import TritonChannel
from gesso_backend.triton.metrics import TritonMetrics
from gesso_backend.triton.parent import end_with_parent

log = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 1.0  # between failing the jobs of a dead loop and leaving the process


class InpaintModel(AnsweringModel):
    """The whole denoising loop as one decoupled model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        end_with_parent()
        log_to_stderr(args["model_name"])
        parameters = model_parameters(args)
        parameters.pop(DESCRIPTION, None)
        metrics = TritonMetrics(pb_utils.MetricFamily, args["model_name"])
        settings = Settings.of_model(parameters, version_folder(args))
        call = partial(_call_network, args["model_name"])
        self._service = Service.load(settings, metrics, on_dead=_leave, call=call)

    def _accept(self, request: Any, channel: TritonChannel) -> None:
        parameters = request_parameters(request, (TIMEOUT, JOB, CANCEL, PRIORITY))
        if CANCEL in parameters:
            self._service.cancel(str(parameters[CANCEL]))
            channel.close(None)
            return
        channel.only_image = JOB in parameters
        self._service.submit(
            arrays(request, self._service.max_image_pixels),
            channel,
            timeout_seconds(request, parameters),
            parameters.get(JOB),
            str(parameters.get(PRIORITY, NORMAL)),
        )

    def is_ready(self) -> bool:
        """Asked by Triton releases that know it (26.03 and later); on earlier ones a dead loop ends the process."""
        return self._service.healthy()

    def finalize(self) -> None:
        self._service.drain()


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
        log.error("%s: %s", network, response.error().message())
        raise InternalError(f"{network} failed; the server's log says why")
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def _leave() -> None:
    """The loop is dead and its jobs have been failed: end the process, so that Triton shows the model as not ready."""
    log.critical("the engine's loop is stuck or dead; leaving")
    time.sleep(LAST_WORDS_SECONDS)
    os._exit(70)
