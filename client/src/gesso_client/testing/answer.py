"""What a fake server answers: events as responses of the wire, and a whole answer for a request without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from gesso_client.events import Event, Image, Preview, Progress, Response

STEPS = 4  # of a request that names no number
SEED = 7  # of a request without one


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


def answer(inputs: Mapping[str, npt.NDArray[Any]], height: int, width: int) -> Iterator[Event]:
    """Progress for each step, the previews that were asked for, and each picture.

    inputs: a request's. height, width: of the pictures. A picture is the negative of the image where the mask is not 0,
    or everywhere without a mask, so that none can be taken for another; without an image it is white.
    """
    image = inputs.get("image", np.zeros((height, width, 3), np.uint8))
    mask = inputs.get("mask_image", np.full(image.shape[:2], 255, np.uint8))
    negative = PILImage.fromarray(255 - image)
    rough = negative.reduce(2).resize(negative.size)  # previews have the picture's size, as a server's have

    def repainted(pixels: PILImage.Image) -> PILImage.Image:
        return PILImage.fromarray(np.where(mask[:, :, None] > 0, np.asarray(pixels), image))

    steps, every = _scalar(inputs, "num_inference_steps", STEPS), _scalar(inputs, "preview_every", 0)
    seed = _scalar(inputs, "seed", SEED)
    indices = range(_scalar(inputs, "num_images_per_prompt", 1))
    for step in range(1, steps + 1):
        for index in indices:
            yield Progress(step, steps, index)
            if every and step % every == 0:
                yield Preview(repainted(rough), step, steps, index)
    for index in indices:
        yield Image(repainted(negative), seed + index, index, {"changed_outside_mask": 0, "warnings": []})


def _scalar(inputs: Mapping[str, npt.NDArray[Any]], name: str, otherwise: int) -> int:
    return int(inputs[name][0]) if name in inputs else otherwise
