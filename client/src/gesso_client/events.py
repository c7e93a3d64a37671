"""What a server tells about a running request, as small frozen types, and how they are read off the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from gesso_client.errors import ServerError, unreadable
from gesso_client.original import Original, sha256

# One response of the server: output name -> array. BYTES are object arrays of bytes.
Response = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Progress:
    step: int  # finished steps, 1..num_steps
    num_steps: int  # that will be run; strength below 1 leaves some out
    index: int  # which of num_images_per_prompt


@dataclass(frozen=True)
class Preview:
    image: PILImage.Image  # of the whole picture, small; rough, for it is made from the latents alone
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
    # Pixels that differ where the mask keeps, counted by this client against what it was given: 0, for any other number
    # is raised as DamagedPicture. None: there was no mask.
    changed_outside_mask: int | None = None
    counted_by: Literal["client"] | None = None


Event = Progress | Preview | Image


class Reading:
    """Turns the responses of one attempt into events, and knows whether they were all there.

    original: what the pictures are held against; None: nothing is known of them.
    """

    def __init__(self, count: int, original: Original | None = None) -> None:
        self.begun = False  # an event was delivered: the attempt can no longer be repeated unnoticed
        self._count = count
        self._original = original
        self.finished: list[Image] = []

    def event(self, response: Response) -> Event:
        """Raises ServerError for a response outside the contract, DamagedPicture for a picture that changed."""
        try:
            event = self._event(response)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise unreadable(repr(error)) from error
        self.begun = True
        if isinstance(event, Image):
            self.finished.append(event)
        return event

    def end(self) -> None:
        """Raises ServerError when the responses ended before the last picture."""
        if len(self.finished) != self._count:
            raise ServerError(f"the answer ended after {len(self.finished)} of {self._count} pictures")

    def _event(self, response: Response) -> Event:
        kind = response["event"][0].decode()
        step, num_steps, index = (int(response[name][0]) for name in ("step", "num_steps", "index"))
        if kind == "progress":
            return Progress(step, num_steps, index)
        pixels = _pixels(response["image"])
        if kind == "preview":
            image = PILImage.fromarray(pixels) if self._original is None else self._original.preview(pixels)
            return Preview(image, step, num_steps, index)
        if kind == "image":
            return self._image(pixels, int(response["seed"][0]), index, json.loads(response["report"][0]))
        raise ValueError(f"unknown event {kind!r}")

    def _image(self, pixels: npt.NDArray[np.uint8], seed: int, index: int, report: dict[str, Any]) -> Image:
        if self._original is None:
            return Image(PILImage.fromarray(pixels), seed, index, report)
        whole, changed = self._original.certified(pixels, report)
        if whole is not pixels and "image_sha256" in report:
            report = report | {"image_sha256": sha256(whole)}  # as if the whole had been sent
        counted_by: Literal["client"] | None = None if changed is None else "client"
        return Image(PILImage.fromarray(whole), seed, index, report, changed, counted_by)


def has_picture(response: Response) -> bool:
    """Whether there is something to compare, which takes a while."""
    return "image" in response and response["image"].size > 0


def _pixels(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"expected a picture of uint8 [H, W, 3], found {pixels.dtype} {list(pixels.shape)}")
    return pixels
