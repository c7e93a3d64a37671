"""Masks to train with: boxes, blobs, brush strokes, half planes and thin lines. True is what to repaint."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from training.scenes.scene import Box

Mask = np.ndarray  # bool [H, W]


def box_mask(height: int, width: int, box: Box) -> Mask:
    mask = np.zeros((height, width), bool)
    left, top, right, bottom = box
    mask[max(0, top) : bottom, max(0, left) : right] = True
    return mask


def grown(rng: np.random.Generator, box: Box, low: float = 0.0, high: float = 0.3) -> Box:
    """The box with each side moved out by a random part of its size."""
    left, top, right, bottom = box
    wide, tall = right - left, bottom - top
    a, b, c, d = rng.uniform(low, high, 4)
    return (round(left - a * wide), round(top - b * tall), round(right + c * wide), round(bottom + d * tall))


def random_box(rng: np.random.Generator, height: int, width: int) -> Mask:
    tall, wide = round(height * rng.uniform(0.15, 0.7)), round(width * rng.uniform(0.15, 0.7))
    top, left = int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1))
    return box_mask(height, width, (left, top, left + wide, top + tall))


def blob(rng: np.random.Generator, height: int, width: int, box: Box | None = None) -> Mask:
    """A wobbly closed shape, around `box` if there is one."""
    if box is None:
        centre = rng.uniform(0.2, 0.8, 2) * (width, height)
        radii = rng.uniform(0.12, 0.36, 2) * (width, height)
    else:
        centre = np.array(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        radii = np.array((box[2] - box[0], box[3] - box[1])) * 0.72
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = 1 + sum(rng.uniform(-0.12, 0.16) * np.sin(k * turn + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    points = np.stack((np.cos(turn), np.sin(turn)), 1) * radii * wobble[:, None] + centre
    return _drawn(height, width, lambda pen: pen.polygon([tuple(p) for p in points], fill=1))


def stroke(rng: np.random.Generator, height: int, width: int) -> Mask:
    """A brush drawn along a wandering line."""
    while True:
        points = np.cumsum(rng.normal(0, 0.18, (int(rng.integers(3, 7)), 2)), 0) + rng.uniform(0.25, 0.75, 2)
        brush = round(min(height, width) * rng.uniform(0.08, 0.22))
        mask = _brushed(height, width, points, brush)
        if mask.any():  # one in seventy wanders outside the picture
            return mask


def half_plane(rng: np.random.Generator, height: int, width: int) -> Mask:
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
    y, x = np.mgrid[0:height, 0:width]
    return np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5) > offset


def thin_line(rng: np.random.Generator, height: int, width: int) -> Mask:
    return _brushed(height, width, rng.uniform(0, 1, (2, 2)), int(rng.integers(1, 5)))


def any_mask(rng: np.random.Generator, height: int, width: int) -> Mask:
    """One of the kinds above."""
    kinds = (random_box, blob, stroke, half_plane, thin_line)
    return kinds[rng.choice(len(kinds), p=(0.3, 0.25, 0.25, 0.1, 0.1))](rng, height, width)


def _brushed(height: int, width: int, points: np.ndarray, brush: int) -> Mask:
    corners = [(float(x) * width, float(y) * height) for x, y in points]

    def paint(pen: ImageDraw.ImageDraw) -> None:
        pen.line(corners, fill=1, width=max(1, brush), joint="curve")
        for x, y in corners:
            pen.ellipse((x - brush / 2, y - brush / 2, x + brush / 2, y + brush / 2), fill=1)

    return _drawn(height, width, paint)


def _drawn(height: int, width: int, paint) -> Mask:  # type: ignore[no-untyped-def]
    picture = Image.new("L", (width, height))
    paint(ImageDraw.Draw(picture))
    return np.asarray(picture) > 0
