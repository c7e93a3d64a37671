"""What a server tells about a running request, as small frozen types, and how they are read off the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from gesso_client.errors import ServerError, unreadable

# One response of the server: output name -> array. BYTES are object arrays of bytes.
Response = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Progress:
    step: int  # finished steps, 1..num_steps
    num_steps: int  # that will be run; strength below 1 leaves some out
    index: int  # which of num_images_per_prompt


@dataclass(frozen=True)
class Preview:
    image: PILImage.Image  # of the whole picture's size; rough, for it is made from the latents alone
    step: int
    num_steps: int
    index: int


@dataclass(frozen=True)
class Image:
    """A finished picture."""

    image: PILImage.Image  # RGB
    seed: int  # of this picture: the request's seed + index
    index: int
    report: dict[str, Any]  # effective parameters, timings in ms, warnings


Event = Progress | Preview | Image


class Reading:
    """Turns the responses of one attempt into events, and knows whether they were all there."""

    def __init__(self, count: int) -> None:
        self.begun = False  # an event was delivered: the attempt can no longer be repeated unnoticed
        self._count = count
        self._images = 0

    def event(self, response: Response) -> Event:
        """Raises ServerError for a response outside the contract."""
        try:
            event = _event(response)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise unreadable(repr(error)) from error
        self.begun = True
        self._images += isinstance(event, Image)
        return event

    def end(self) -> None:
        """Raises ServerError when the responses ended before the last picture."""
        if self._images != self._count:
            raise ServerError(f"the answer ended after {self._images} of {self._count} pictures")


def _event(response: Response) -> Event:
    kind = response["event"][0].decode()
    step, num_steps, index = (int(response[name][0]) for name in ("step", "num_steps", "index"))
    if kind == "progress":
        return Progress(step, num_steps, index)
    image = _image(response["image"])
    if kind == "preview":
        return Preview(image, step, num_steps, index)
    if kind == "image":
        return Image(image, int(response["seed"][0]), index, json.loads(response["report"][0]))
    raise ValueError(f"unknown event {kind!r}")


def _image(pixels: npt.NDArray[Any]) -> PILImage.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"expected a picture of uint8 [H, W, 3], found {pixels.dtype} {list(pixels.shape)}")
    return PILImage.fromarray(pixels)
