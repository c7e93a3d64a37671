"""The pictures of a request: decoded once, checked against the server's limits, and as they travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gesso_client.errors import InvalidRequest
from gesso_client.models import ModelInfo
from gesso_client.original import Original, sha256
from gesso_client.pictures import AlphaMeans, Pixels, check_repaints, image_pixels, mask_pixels
from gesso_client.piece import WORTH, Piece, surroundings
from gesso_client.source import open_picture

Array = npt.NDArray[Any]

# The inputs that this client fills by itself, where the model has them.
OWN = ("image_sha256", "mask_image_sha256", "picture_size", "picture_offset")


def decoded(
    image: object, mask: object, alpha_means: AlphaMeans | None, fit: bool, invert: bool
) -> tuple[Pixels, Pixels, Pixels]:
    """Image [H, W, 3], mask [H, W] and where it repaints [H, W], above 0. Raises InvalidRequest."""
    if mask is None and alpha_means is None:
        raise InvalidRequest("missing; give a mask, or alpha_means to read it from the image's alpha", "mask_image")
    opened = open_picture(image, "image")
    levels = opened if mask is None else open_picture(mask, "mask_image")
    pixels = image_pixels(opened, drop_alpha=mask is None)
    mask_levels = mask_pixels(levels, opened.size, alpha_means=alpha_means, fit=fit, stored=opened.stored)
    repaint = np.invert(mask_levels) if invert else mask_levels
    check_repaints(repaint, "" if alpha_means or invert else levels.picture.mode)
    return pixels, mask_levels, repaint


def of_image(info: ModelInfo, image: object, preview_size: int | None) -> tuple[dict[str, Array], Original]:
    """The inputs of image-to-image, and what its pictures are held against. Raises InvalidRequest."""
    pixels = image_pixels(open_picture(image, "image"))
    height, width = pixels.shape[:2]
    return _sent(info, pixels, None), Original(height, width, pixels, preview_size=preview_size)


def of_inpainting(
    info: ModelInfo,
    pixels: Pixels,
    mask: Pixels,
    repaint: Pixels,
    padding_mask_crop: int | None,
    preview_size: int | None,
) -> tuple[dict[str, Array], Original]:
    """The same for what `decoded` gave. What is too large for the server, or saves much, is sent as a piece."""
    piece = _piece(info, repaint, padding_mask_crop)
    if piece is None:
        height, width = pixels.shape[:2]
        return _sent(info, pixels, mask), Original(height, width, pixels, repaint, None, preview_size)
    inputs = _sent(info, _part(piece, pixels), _part(piece, mask))
    inputs["picture_size"] = np.array(pixels.shape[:2], np.int32)
    inputs["picture_offset"] = np.array([piece.top, piece.left], np.int32)
    return inputs, Original(piece.height, piece.width, pixels, repaint, piece, preview_size)


def check_limits(info: ModelInfo, inputs: Mapping[str, Array], preview_size: int | None) -> None:
    """Raises InvalidRequest for what the server would not take, before it is sent."""
    limits, image = info.limits, inputs.get("image")
    if image is not None:
        height, width = image.shape[:2]
        if limits.max_image_pixels is not None and height * width > limits.max_image_pixels:
            text = f"{height * width} pixels ({width}x{height}) to send, {info.name!r} takes {limits.max_image_pixels}"
            if "mask_image" in inputs:
                text += "; all that is above 0 in the mask, however faint, has to travel with its surroundings"
            raise InvalidRequest(text, "image")
        longest = min(preview_size or max(height, width), max(height, width))
        preview = 3 * longest * max(1, round(longest * min(height, width) / max(height, width)))
        previews = "preview_every" in inputs and inputs["preview_every"][0] > 0
        if previews and limits.max_preview_bytes is not None and preview > limits.max_preview_bytes:
            found = f"a preview of {longest} pixels takes {preview} bytes"
            raise InvalidRequest(f"{found}, {info.name!r} takes at most {limits.max_preview_bytes}", "preview_size")
    size = sum(_bytes(array) for array in inputs.values())
    if limits.max_request_bytes is not None and size > limits.max_request_bytes:
        raise InvalidRequest(f"{size} bytes to send, {info.name!r} takes at most {limits.max_request_bytes}", "image")


def _piece(info: ModelInfo, repaint: Pixels, padding_mask_crop: int | None) -> Piece | None:
    if not {"picture_size", "picture_offset"} <= info.parameters.keys():
        return None
    piece = surroundings(repaint, info, padding_mask_crop)
    if piece is None:
        return None
    limits, pixels = info.limits, repaint.size
    too_large = limits.max_image_pixels is not None and pixels > limits.max_image_pixels
    # Four bytes a pixel, and the rest of a request beside them.
    too_large |= limits.max_request_bytes is not None and 4 * pixels + (1 << 20) > limits.max_request_bytes
    return piece if too_large or pixels - piece.height * piece.width >= WORTH else None


def _part(piece: Piece, picture: Pixels) -> Pixels:
    part = np.ascontiguousarray(piece.of(picture))
    part.flags.writeable = False
    return part


def _sent(info: ModelInfo, image: Pixels, mask: Pixels | None) -> dict[str, Array]:
    sent: dict[str, Array] = {"image": image} if mask is None else {"image": image, "mask_image": mask}
    digests = {f"{name}_sha256": levels for name, levels in sent.items() if f"{name}_sha256" in info.parameters}
    return sent | {name: np.array([sha256(levels).encode()], np.object_) for name, levels in digests.items()}


def _bytes(array: Array) -> int:
    return array.nbytes if array.dtype != np.object_ else sum(4 + len(item) for item in array.ravel())
