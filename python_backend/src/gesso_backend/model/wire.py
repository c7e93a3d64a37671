"""Tensors as Triton delivers them, read by the table of parameters and a bundle's bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso_backend.arrays import REPAINT, Arrays, Pixels
from gesso_backend.errors import InvalidRequest, NotFound
from gesso_backend.model.parameters import PARAMETERS, Parameter

SIDES = ("height", "width")
MAX_IMAGE_PIXELS = 2**25  # 32 Mpx; bounds the memory one request may take before it is looked at
PICTURES = {"image": (-1, -1, 3), "mask_image": (-1, -1)}  # -1: any

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
    values["image"], values["mask_image"] = _pictures(inputs, values)
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
    value = float(str(np.float32(item))) if kind == "float" else item.item()
    if value != value:
        raise InvalidRequest(name, "is not a number")
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
    if spec.choices is not None and text not in spec.choices:
        raise NotFound(name, f"{text!r} is not one of {', '.join(spec.choices)}")
    return text


def _pictures(inputs: Arrays, values: dict[str, Any]) -> tuple[Pixels | None, Pixels | None]:
    """The image [H, W, 3] and the mask [H, W], or None for what is absent."""
    image, mask = inputs.get("image"), inputs.get("mask_image")
    if image is None:
        if mask is not None:
            raise InvalidRequest("mask_image", "needs an image")
        return None, None
    image = _picture("image", image, 3, values)
    if image.shape[2] != 3:
        raise InvalidRequest("image", f"expected shape [H, W, 3], found {list(image.shape)}")
    for name, size in zip(SIDES, image.shape[:2], strict=True):
        if values[name] not in (None, size):
            raise InvalidRequest(name, f"is for text-to-image; the image has {size}")
    if mask is None:
        return image, None
    mask = _picture("mask_image", mask, 2, values)
    if mask.shape != image.shape[:2]:
        raise InvalidRequest("mask_image", f"size {list(mask.shape)} differs from the image's {list(image.shape[:2])}")
    if mask.max() < REPAINT:
        raise InvalidRequest("mask_image", f"is empty: no pixel reaches {REPAINT}, so nothing is to be repainted")
    return image, mask


def _picture(name: str, array: np.ndarray[Any, Any], rank: int, values: dict[str, Any]) -> Pixels:
    if array.dtype != np.uint8:
        raise InvalidRequest(name, f"expected uint8, found {array.dtype}")
    if array.ndim != rank:
        raise InvalidRequest(name, f"expected {rank} axes, found shape {list(array.shape)}")
    if array.size == 0:
        raise InvalidRequest(name, f"has no pixel: shape {list(array.shape)}")
    if array.shape[0] * array.shape[1] > MAX_IMAGE_PIXELS:
        raise InvalidRequest(name, f"more than {MAX_IMAGE_PIXELS} pixels")
    # Triton's generate_stream takes flat JSON lists and delivers them as one row; height and width give the shape back.
    height, width = values["height"], values["width"]
    if array.shape[0] == 1 and height and width and array.shape[1] == height * width:
        array = array.reshape(height, width, *array.shape[2:])
    return np.ascontiguousarray(array)
