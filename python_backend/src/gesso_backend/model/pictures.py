"""The pictures of a request: `image` and `mask_image`, whole or a piece of a larger picture, as they arrived."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso_backend.arrays import REPAINT, Arrays, Pixels, sha256
from gesso_backend.errors import InvalidRequest

SIDES = ("height", "width")
PICTURES = {"image": (-1, -1, 3), "mask_image": (-1, -1)}  # -1: any
DIGESTS = {f"{name}_sha256": name for name in PICTURES}  # input -> whose bytes it is of
MAX_WHOLE_PIXELS = 2**31  # of a picture that a piece is of; only its numbers travel


def check_pixels(inputs: Arrays, most: int) -> None:
    """Raises InvalidRequest for a picture of more than `most` pixels. Looks at shapes alone: nothing is copied yet."""
    for name in PICTURES:
        array = inputs.get(name)
        if array is not None and array.ndim >= 2 and array.shape[0] * array.shape[1] > most:
            raise InvalidRequest(name, f"{array.shape[0] * array.shape[1]} pixels is above the maximum {most}")


def read(inputs: Arrays, values: Mapping[str, Any]) -> tuple[Pixels | None, Pixels | None]:
    """The image [H, W, 3] and the mask [H, W], 255 repaints, or None for what is absent.

    values: of the parameters, None where absent. Raises InvalidRequest naming the field.
    """
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
    if mask is not None:
        mask = _picture("mask_image", mask, 2, values)
        if mask.shape != image.shape[:2]:
            sizes = f"size {list(mask.shape)} differs from the image's {list(image.shape[:2])}"
            raise InvalidRequest("mask_image", sizes)
        if values.get("mask_invert"):
            mask = np.invert(mask)
        _check_repaints(mask)
    _check_piece(image, values)
    for name, whose in DIGESTS.items():
        _check_digest(name, values.get(name), inputs.get(whose))
    return image, mask


def _picture(name: str, array: np.ndarray[Any, Any], rank: int, values: Mapping[str, Any]) -> Pixels:
    if array.dtype != np.uint8:
        raise InvalidRequest(name, f"expected uint8, found {array.dtype}")
    if array.ndim != rank:
        raise InvalidRequest(name, f"expected {rank} axes, found shape {list(array.shape)}")
    if array.size == 0:
        raise InvalidRequest(name, f"has no pixel: shape {list(array.shape)}")
    # Triton's generate_stream takes flat JSON lists and delivers them as one row; height and width give the shape back.
    height, width = values["height"], values["width"]
    if array.shape[0] == 1 and height and width and array.shape[1] == height * width:
        array = array.reshape(height, width, *array.shape[2:])
    return np.ascontiguousarray(array)


def _check_repaints(mask: Pixels) -> None:
    highest = int(mask.max())
    if highest < REPAINT:
        hint = ", as of a mask of 0 and 1: 255 repaints" if highest == 1 else ""
        found = f"the highest level is {highest}{hint}"
        raise InvalidRequest(
            "mask_image", f"is empty: no pixel reaches {REPAINT}, so nothing is to be repainted; {found}"
        )


def _check_piece(piece: Pixels, values: Mapping[str, Any]) -> None:
    """A piece lies in its picture."""
    size, offset = values.get("picture_size"), values.get("picture_offset")
    if size is None and offset is None:
        return
    if size is None:
        raise InvalidRequest("picture_size", "missing: picture_offset is where a piece lies in a picture of that size")
    if offset is None:
        raise InvalidRequest("picture_offset", "missing: where the piece lies in the picture of picture_size")
    if size[0] * size[1] > MAX_WHOLE_PIXELS:
        raise InvalidRequest("picture_size", f"{size[0] * size[1]} pixels is above the maximum {MAX_WHOLE_PIXELS}")
    for side, whole, start, length in zip(SIDES, size, offset, piece.shape[:2], strict=True):
        if start + length > whole:
            raise InvalidRequest(
                "picture_offset", f"the piece ends at {start + length}, beyond the picture's {side} of {whole}"
            )


def _check_digest(name: str, said: str | None, array: np.ndarray[Any, Any] | None) -> None:
    if said is None or array is None:
        return
    if not re.fullmatch(r"[0-9a-f]{64}", said):
        raise InvalidRequest(name, "is not a SHA-256 of 64 lower-case hexadecimal digits")
    found = sha256(array)
    if found != said:
        whose = DIGESTS[name]
        raise InvalidRequest(whose, f"the {whose} arrived damaged: its bytes' SHA-256 is {found}, {name} says {said}")
