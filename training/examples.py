"""What the model is trained on: from each scene, one mask and three questions about it.

The subject's mask hides every trace of it, so the masked picture is the same with and without the subject, and only the
words decide which of the two is to be painted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.scenes import Scene, draw
from training.scenes.captions import landscape, with_thing, without_thing
from training.scenes.masks import Mask, any_mask, blob, box_mask, grown
from training.scenes.scene import Box

Pixels = np.ndarray  # uint8 [S, S, 3]
CAPTIONS = 4  # of each question, of which training picks one at a time


@dataclass(frozen=True)
class Example:
    """One scene as the trainer sees it. All pictures and masks are [S, S]."""

    image: Pixels
    without: Pixels
    mask: Mask  # over the subject
    other_mask: Mask  # over anything
    add: tuple[str, ...]  # captions for `mask` over `image`
    remove: tuple[str, ...]  # for `mask` over `without`
    fill: tuple[str, ...]  # for `other_mask` over `image`


def example(seed: int, size: int) -> Example:
    """The example of a seed. Some are windows of larger pictures, as a server that crops will send them."""
    rng = np.random.default_rng([seed, 7])
    if rng.random() < 0.55:
        scene, left, top = draw(seed, size, size), 0, 0
    else:
        height = round(size * rng.uniform(1.15, 2.2))
        width = round(height * rng.uniform(1.0, 1.5))
        scene = draw(seed, height, width, unit=size * rng.uniform(0.28, 0.46))
        left, top = _window(rng, scene.subject.box, height, width, size)
    window = np.s_[top : top + size, left : left + size]
    image, without = scene.image[window], scene.without[window]
    box = _moved(scene.subject.box, left, top)
    mask = _subject_mask(rng, box, size) | (image != without).any(2)
    return Example(
        image,
        without,
        mask,
        any_mask(rng, size, size),
        tuple(
            with_thing(rng, scene.subject.kind, scene.subject.colour, scene.place, scene.time) for _ in range(CAPTIONS)
        ),
        tuple(without_thing(rng, scene.place, scene.time) for _ in range(CAPTIONS)),
        tuple(_about(rng, scene) for _ in range(CAPTIONS)),
    )


def _subject_mask(rng: np.random.Generator, box: Box, size: int) -> Mask:
    left, top, right, bottom = box
    if rng.random() < 0.3:  # as wide as it is high
        side = max(right - left, bottom - top)
        left -= round((side - (right - left)) * rng.random())
        top = bottom - side
        right = left + side
    roomy = rng.random() < 0.25
    area = grown(rng, (left, top, right, bottom), 0.0, 0.7 if roomy else 0.2)
    return blob(rng, size, size, area) if rng.random() < 0.3 else box_mask(size, size, area)


def _about(rng: np.random.Generator, scene: Scene) -> str:
    form = rng.random()
    if form < 0.5:
        return landscape(rng, scene.place, scene.time)
    return with_thing(rng, scene.subject.kind, scene.subject.colour, scene.place, scene.time) if form < 0.75 else ""


def _window(rng: np.random.Generator, box: Box, height: int, width: int, size: int) -> tuple[int, int]:
    """Left and top of a window that the subject is inside of, near its middle."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    dx, dy = rng.uniform(-0.2, 0.2, 2) * size
    left = np.clip(x + dx - size / 2, 0, width - size)
    top = np.clip(y + dy - size / 2, 0, height - size)
    return int(left), int(top)


def _moved(box: Box, left: int, top: int) -> Box:
    return (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
