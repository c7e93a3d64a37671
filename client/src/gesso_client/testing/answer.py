"""What a fake server answers: events as responses of the wire, and a whole answer for a request without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from gesso_client.errors import GessoError, from_server
from gesso_client.events import Event, Image, Preview, Progress, Response
from gesso_client.original import sha256

STEPS = 4  # of a request that names no number
SEED = 7  # of a request without one
PREVIEW_SIZE = 512  # likewise, pixels


def response(event: Event) -> Response:
    """The response that the client reads this event from."""
    kind, step, num_steps, seed, report = type(event).__name__.lower(), 1, 1, 0, b""
    pixels = np.zeros((0, 0, 3), np.uint8)
    if isinstance(event, Progress | Preview):
        step, num_steps = event.step, event.num_steps
    if isinstance(event, Image):
        seed, report = event.seed, json.dumps(event.report).encode()
    if isinstance(event, Image | Preview):
        pixels = np.asarray(event.image.convert("RGB"))
    return {
        "event": np.array([kind.encode()], np.object_),
        "step": np.array([step], np.int32),
        "num_steps": np.array([num_steps], np.int32),
        "index": np.array([event.index], np.int32),
        "image": pixels,
        "seed": np.array([seed], np.int64),
        "report": np.array([report], np.object_),
    }


def refusal(inputs: Mapping[str, npt.NDArray[Any]]) -> GessoError | None:
    """What a server says of pictures that are not those of which the digests were sent, or of a piece outside."""
    for name in ("image", "mask_image"):
        digest = inputs.get(f"{name}_sha256")
        if digest is not None and name in inputs and digest[0].decode() != sha256(inputs[name]):
            return from_server(f"INVALID_ARG: {name}: arrived damaged: its SHA-256 is not the one that was sent")
    if "picture_size" in inputs:
        size, offset, piece = inputs["picture_size"], inputs["picture_offset"], inputs["image"].shape[:2]
        if (offset < 0).any() or (offset + piece > size).any():
            return from_server("INVALID_ARG: picture_offset: the piece is not inside the picture")
    return None


def answer(inputs: Mapping[str, npt.NDArray[Any]], height: int, width: int) -> Iterator[Event]:
    """Progress for each step, the previews that were asked for, and each picture.

    inputs: a request's. height, width: of the pictures. A picture is the negative of the image where the mask is not 0,
    or everywhere without a mask, so that none can be taken for another; without an image it is white. Of a piece it is
    the same piece.
    """
    image = inputs.get("image", np.zeros((height, width, 3), np.uint8))
    mask = inputs.get("mask_image", np.full(image.shape[:2], 255, np.uint8))
    repaint = 255 - mask if _scalar(inputs, "mask_invert", 0) else mask
    pixels = np.where(repaint[:, :, None] > 0, 255 - image, image)
    small = PILImage.fromarray(image)
    longest = _scalar(inputs, "preview_size", PREVIEW_SIZE)
    small.thumbnail((longest, longest))
    rough = PILImage.fromarray(255 - image).reduce(2).resize(small.size)
    rough.paste(small, mask=PILImage.fromarray(np.where(repaint > 0, 0, 255).astype(np.uint8)).resize(small.size))

    steps, every = _scalar(inputs, "num_inference_steps", STEPS), _scalar(inputs, "preview_every", 0)
    seed = _scalar(inputs, "seed", SEED)
    indices = range(_scalar(inputs, "num_images_per_prompt", 1))
    for step in range(1, steps + 1):
        for index in indices:
            yield Progress(step, steps, index)
            if every and step % every == 0:
                yield Preview(rough, step, steps, index)
    report: dict[str, Any] = {"image_sha256": sha256(pixels), "warnings": []}
    if "mask_image" in inputs:
        changed = int(((pixels != image).any(axis=2) & (repaint == 0)).sum())
        report |= {"changed_outside_mask": changed, "counted_by": "server"}
    for index in indices:
        yield Image(PILImage.fromarray(pixels), seed + index, index, report)


def _scalar(inputs: Mapping[str, npt.NDArray[Any]], name: str, otherwise: int) -> int:
    return int(inputs[name][0]) if name in inputs else otherwise
