"""A request as the wire has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.pictures import Pixels

INT64 = ("seed",)
Tensors = dict[str, np.ndarray[Any, Any]]


def tensors(image: Pixels, mask: Pixels, prompt: str, **parameters: str | int | float | bool) -> Tensors:
    return {"image": image, "mask_image": mask, "prompt": _tensor("prompt", prompt)} | {
        name: _tensor(name, value) for name, value in parameters.items()
    }


def _tensor(name: str, value: str | int | float | bool) -> np.ndarray[Any, Any]:
    if isinstance(value, str):
        return np.array([value.encode()], np.object_)
    if isinstance(value, bool):
        return np.array([value])
    if isinstance(value, int):
        return np.array([value], np.int64 if name in INT64 else np.int32)
    return np.array([value], np.float32)
