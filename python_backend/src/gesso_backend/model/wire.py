"""Tensors as Triton delivers them, read by the table of parameters and a bundle's bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.errors import InvalidRequest, NotFound
from gesso_backend.model import pictures
from gesso_backend.model.parameters import PARAMETERS, Parameter
from gesso_backend.model.pictures import PICTURES, SIDES

MAX_QUOTED = 60  # characters of a value in its refusal

_NAMES = tuple(PARAMETERS)
# The wire's inputs, in their order; model_repository/*/config.pbtxt declare the same.
INPUTS = (*_NAMES[:2], *PICTURES, *_NAMES[2:])


def read(inputs: Arrays, taken: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values of the parameters that a model takes (None when absent), and `image` and `mask_image` as pixels.

    inputs: name -> array (BYTES are object arrays of bytes). Raises InvalidRequest or NotFound naming the field:
    unknown inputs, wrong types and shapes, values out of bounds, and what needs a picture or a mask.
    """
    for name in inputs:
        if name not in INPUTS:
            raise InvalidRequest(name, f"unknown input; known are {', '.join(INPUTS)}")
        if name not in PICTURES and name not in taken:
            raise InvalidRequest(name, "this model does not take it")
    specs = dict(taken)
    if "image" in inputs:  # they only give flat pictures their shape back then, and a picture may have any size
        specs |= dict.fromkeys(SIDES, Parameter("int", minimum=1))
    values = {name: _value(name, inputs.get(name), spec) for name, spec in specs.items()}
    values["image"], values["mask_image"] = pictures.read(inputs, values)
    if "prompt" in taken and values["prompt"] is None:
        raise InvalidRequest("prompt", "missing")
    for name in taken:
        needed = PARAMETERS[name].needs
        if needed is not None and values[needed] is None and values[name] is not None:
            raise InvalidRequest(name, f"needs {'an' if needed == 'image' else 'a'} {needed}")
    return values


def _value(name: str, array: np.ndarray[Any, Any] | None, spec: Parameter) -> Any:
    """The value of one tensor: of a [1] its item, of a list a tuple, or None when it is absent."""
    if array is None:
        return None
    if spec.type in ("ints", "floats"):
        least, most = spec.min_items or 1, spec.max_items or 1
        if array.ndim != 1 or not least <= array.size <= most:
            wanted = f"{most}" if least == most else f"{least} to {most}"
            raise InvalidRequest(name, f"expected {wanted} numbers, found shape {list(array.shape)}")
        kind = _checked_kind(name, array, spec.type.removesuffix("s"))
        return tuple(_number(name, item, spec, kind) for item in array)
    if array.shape != (1,):
        raise InvalidRequest(name, f"expected shape [1], found {list(array.shape)}")
    if spec.type == "string":
        return _text(name, array[0], spec)
    return _number(name, array[0], spec, _checked_kind(name, array, spec.type))


def _checked_kind(name: str, array: np.ndarray[Any, Any], kind: str) -> str:
    if array.dtype.kind not in {"int": "iu", "float": "f", "bool": "b"}[kind]:
        raise InvalidRequest(name, f"expected {kind}, found {array.dtype}")
    return kind


def _number(name: str, item: Any, spec: Parameter, kind: str) -> Any:
    # A float32 on the wire stands for the decimal its sender wrote: 0.7, not 0.699999988. Steps are counted from it
    # (int(10 * strength)), so the difference is a whole step.
    with np.errstate(over="ignore"):
        value = float(str(np.float32(item))) if kind == "float" else item.item()
    if value != value:
        raise InvalidRequest(name, "is not a number")
    if kind == "float" and math.isinf(value):
        raise InvalidRequest(name, f"is not finite: {value}")
    if spec.minimum is not None and value < spec.minimum:
        raise InvalidRequest(name, f"{value} is below the minimum {spec.minimum}")
    if spec.maximum is not None and value > spec.maximum:
        raise InvalidRequest(name, f"{value} is above the maximum {spec.maximum}")
    return value


def _text(name: str, value: Any, spec: Parameter) -> str:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise InvalidRequest(name, f"expected BYTES, found {type(value).__name__}")
    if spec.max_bytes is not None and len(value) > spec.max_bytes:
        raise InvalidRequest(name, f"{len(value)} bytes is above the maximum {spec.max_bytes}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(name, "is not UTF-8") from None
    if "\0" in text:
        raise InvalidRequest(name, "has a NUL character")
    if spec.choices is not None and text not in spec.choices:
        raise NotFound(name, f"{text[:MAX_QUOTED]!r} is not one of {', '.join(spec.choices)}")
    return text
