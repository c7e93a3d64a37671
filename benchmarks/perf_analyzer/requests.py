"""The file of requests that perf_analyzer sends."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness.tensors import Tensors, tensors
from benchmarks.load.requests import GUIDANCE, picture, pool

REQUESTS = 32  # different ones: eight of each number of steps


def requests() -> list[Tensors]:
    """The load benchmark's, each as the wire's tensors, in an order that does not repeat."""
    image, chosen = picture(), pool()[:REQUESTS]
    random.Random(0).shuffle(chosen)
    return [
        tensors(
            image,
            request.mask,
            request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=GUIDANCE,
            seed=request.seed,
        )
        for request in chosen
    ]


def input_file(requests: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> str:
    """Requests in perf_analyzer's JSON; it sends them one after another, and begins again."""
    return json.dumps({"data": [{name: _listed(array) for name, array in inputs.items()} for inputs in requests]})


def _listed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    content = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
    return {"content": content, "shape": list(array.shape)}
