"""The things in the landscapes: each is a few shapes in a unit box, painted large, shaded and reduced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from training.scenes.colours import RGB, darker, ink, lighter

SUPERSAMPLE = 4
BROWN: RGB = (104, 72, 46)
CREAM: RGB = (236, 226, 204)
GLASS: RGB = (190, 216, 232)
LAMP: RGB = (255, 226, 130)
DARK: RGB = (44, 40, 46)

Point = tuple[float, float]


class Canvas:
    """Draws in unit coordinates (x right, y down) on a large tile, colour and coverage together."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self.rgb, self.alpha = Image.new("RGB", self.size), Image.new("L", self.size)
        self._pens = (ImageDraw.Draw(self.rgb), ImageDraw.Draw(self.alpha))

    def polygon(self, colour: RGB, *points: Point) -> None:
        corners = [self._at(point) for point in points]
        for pen, fill in zip(self._pens, (ink(colour), 255), strict=True):
            pen.polygon(corners, fill=fill)

    def rectangle(self, colour: RGB, left: float, top: float, right: float, bottom: float, radius: float = 0) -> None:
        box = [self._at((left, top)), self._at((right, bottom))]
        for pen, fill in zip(self._pens, (ink(colour), 255), strict=True):
            pen.rounded_rectangle(box, radius * self.size[1], fill=fill)

    def ellipse(self, colour: RGB, left: float, top: float, right: float, bottom: float) -> None:
        box = [self._at((left, top)), self._at((right, bottom))]
        for pen, fill in zip(self._pens, (ink(colour), 255), strict=True):
            pen.ellipse(box, fill=fill)

    def slice(
        self, colour: RGB, left: float, top: float, right: float, bottom: float, start: float, end: float
    ) -> None:
        """A sector of an ellipse; angles in degrees, clockwise from three o'clock."""
        box = [self._at((left, top)), self._at((right, bottom))]
        for pen, fill in zip(self._pens, (ink(colour), 255), strict=True):
            pen.pieslice(box, start, end, fill=fill)

    def line(self, colour: RGB, width: float, *points: Point) -> None:
        corners = [self._at(point) for point in points]
        for pen, fill in zip(self._pens, (ink(colour), 255), strict=True):
            pen.line(corners, fill=fill, width=max(1, round(width * self.size[1])))

    def _at(self, point: Point) -> Point:
        return (point[0] * (self.size[0] - 1), point[1] * (self.size[1] - 1))


def _house(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    eaves = rng.uniform(0.40, 0.48)
    c.rectangle(darker(colour, 0.5), 0.70, 0.10, 0.80, eaves)
    c.rectangle(colour, 0.10, eaves, 0.90, 1)
    c.polygon(darker(colour, 0.38), (0, eaves + 0.03), (0.5, 0.03), (1, eaves + 0.03))
    door = rng.uniform(0.40, 0.48)
    c.rectangle(BROWN, door, 0.68, door + 0.16, 1)
    for left in (0.18, 0.68):
        c.rectangle(LAMP if rng.random() < 0.3 else GLASS, left, 0.60, left + 0.15, 0.76)


def _tree(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    c.polygon(BROWN, (0.44, 0.5), (0.56, 0.5), (0.60, 1), (0.40, 1))
    c.ellipse(darker(colour, 0.14), 0.02, 0.22, 0.98, 0.74)
    for left, top in ((0.04, 0.24), (0.44, 0.22), (0.22, 0.02), (0.25, 0.26)):
        left, top = left + rng.uniform(-0.03, 0.03), top + rng.uniform(-0.02, 0.03)
        c.ellipse(lighter(colour, 0.10) if top < 0.2 else colour, left, top, left + 0.52, top + 0.44)


def _boat(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    c.line(BROWN, 0.035, (0.48, 0.02), (0.48, 0.82))
    c.polygon(colour, (0.52, 0.03), (0.52, 0.70), (0.52 + rng.uniform(0.34, 0.44), 0.70))
    c.polygon(lighter(colour), (0.44, 0.12), (0.44, 0.70), (0.44 - rng.uniform(0.24, 0.34), 0.70))
    c.polygon(darker(colour, 0.22), (0, 0.77), (1, 0.77), (0.82, 1), (0.18, 1))


def _balloon(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    c.line(BROWN, 0.015, (0.25, 0.58), (0.42, 0.9))
    c.line(BROWN, 0.015, (0.75, 0.58), (0.58, 0.9))
    for inset, shade in ((0.0, darker(colour, 0.16)), (0.16, colour), (0.36, lighter(colour, 0.22))):
        c.ellipse(shade, inset, 0, 1 - inset, 0.70)
        c.polygon(shade, (inset + 0.07 * (1 - inset), 0.46), (1 - inset - 0.07 * (1 - inset), 0.46),
                  (0.5 + 0.16 * (1 - 2 * inset), 0.78), (0.5 - 0.16 * (1 - 2 * inset), 0.78))  # fmt: skip
    c.rectangle(BROWN, 0.39, 0.87, 0.61, 1, 0.02)


def _car(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    back, front = rng.uniform(0.14, 0.22), rng.uniform(0.74, 0.82)
    c.polygon(darker(colour, 0.10), (back, 0.46), (back + 0.12, 0.04), (front - 0.14, 0.04), (front, 0.46))
    middle = (back + front) / 2
    c.polygon(GLASS, (back + 0.06, 0.42), (back + 0.14, 0.12), (middle - 0.02, 0.12), (middle - 0.02, 0.42))
    c.polygon(GLASS, (middle + 0.02, 0.42), (middle + 0.02, 0.12), (front - 0.16, 0.12), (front - 0.07, 0.42))
    c.rectangle(colour, 0, 0.40, 1, 0.82, 0.12)
    c.rectangle(LAMP, 0.94, 0.50, 1, 0.60)
    for left in (0.12, 0.66):
        c.ellipse(DARK, left, 0.60, left + 0.21, 1)
        c.ellipse((150, 150, 156), left + 0.065, 0.725, left + 0.145, 0.875)


def _lighthouse(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    bands = 5
    for i in range(bands):
        top, bottom = 0.22 + 0.78 * i / bands, 0.22 + 0.78 * (i + 1) / bands
        a, b = 0.26 - 0.24 * (top - 0.22) / 0.78, 0.26 - 0.24 * (bottom - 0.22) / 0.78
        c.polygon(colour if i % 2 == 0 else lighter(colour, 0.45), (a, top), (1 - a, top), (1 - b, bottom), (b, bottom))
    c.rectangle(DARK, 0.16, 0.19, 0.84, 0.225)
    c.rectangle(LAMP, 0.32, 0.09, 0.68, 0.19)
    c.polygon(darker(colour, 0.35), (0.24, 0.10), (0.5, 0), (0.76, 0.10))
    c.rectangle(BROWN, 0.40, 0.90, 0.60, 1)


def _tent(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    peak = rng.uniform(0.34, 0.44)
    c.polygon(darker(colour, 0.22), (peak, 0.02), (peak + 0.28, 0.10), (1, 0.98), (0.70, 1))
    c.polygon(colour, (peak, 0.02), (0, 1), (0.74, 1))
    c.polygon(DARK, (peak, 0.34), (peak - 0.13, 1), (peak + 0.15, 1))
    c.polygon(lighter(colour), (peak, 0.34), (peak - 0.13, 1), (peak - 0.20, 1))


def _umbrella(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    c.line(BROWN, 0.045, (0.5, 0.1), (0.5, 1))
    c.slice(colour, 0, 0.02, 1, 1.0, 180, 360)
    c.slice(lighter(colour, 0.32), 0.16, 0.02, 0.84, 1.0, 180, 360)
    c.slice(colour, 0.36, 0.02, 0.64, 1.0, 180, 360)
    c.rectangle(darker(colour, 0.25), 0, 0.48, 1, 0.53)


def _kite(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    wave = rng.uniform(-0.18, 0.18)
    c.line(DARK, 0.02, (0.5, 0.62), (0.5 + wave, 0.74), (0.5 - wave, 0.86), (0.5 + wave, 1))
    for x, y in ((0.5 + wave, 0.76), (0.5 - wave, 0.88)):
        c.polygon(
            darker(colour, 0.12), (x - 0.12, y - 0.05), (x + 0.12, y + 0.05), (x + 0.12, y - 0.05), (x - 0.12, y + 0.05)
        )
    c.polygon(colour, (0.5, 0), (0, 0.27), (0.5, 0.66))
    c.polygon(darker(colour, 0.2), (0.5, 0), (1, 0.27), (0.5, 0.66))
    c.polygon(lighter(colour, 0.3), (0.5, 0), (0.5, 0.27), (0, 0.27))


def _mushroom(c: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    c.polygon(CREAM, (0.38, 0.5), (0.62, 0.5), (0.70, 1), (0.30, 1))
    c.slice(colour, 0, 0.02, 1, 1.16, 180, 360)
    c.ellipse(darker(colour, 0.35), 0.02, 0.52, 0.98, 0.66)
    c.slice(colour, 0, 0.02, 1, 1.10, 180, 360)
    for x, y in ((0.22, 0.36), (0.46, 0.14), (0.66, 0.34)):
        x = x + rng.uniform(-0.03, 0.03)
        c.ellipse(lighter(colour, 0.8) if sum(colour) < 600 else darker(colour, 0.25), x, y, x + 0.14, y + 0.12)


@dataclass(frozen=True)
class Kind:
    paint: Callable[[Canvas, RGB, np.random.Generator], None]
    aspect: float  # width / height
    size: float  # height, in parts of the scene's unit
    where: str  # sky, sea or ground
    names: Sequence[str]


KINDS: Mapping[str, Kind] = {
    "house": Kind(_house, 1.10, 1.00, "ground", ("house", "cottage")),
    "tree": Kind(_tree, 0.85, 1.15, "ground", ("tree",)),
    "boat": Kind(_boat, 1.05, 1.00, "sea", ("boat", "sailboat")),
    "balloon": Kind(_balloon, 0.78, 1.10, "sky", ("balloon", "hot air balloon")),
    "car": Kind(_car, 2.00, 0.62, "ground", ("car",)),
    "lighthouse": Kind(_lighthouse, 0.42, 1.40, "ground", ("lighthouse",)),
    "tent": Kind(_tent, 1.45, 0.78, "ground", ("tent",)),
    "umbrella": Kind(_umbrella, 1.10, 0.95, "ground", ("umbrella", "parasol")),
    "kite": Kind(_kite, 0.75, 1.10, "sky", ("kite",)),
    "mushroom": Kind(_mushroom, 1.00, 0.85, "ground", ("mushroom",)),
}


def paint(
    kind: str, colour: RGB, height: int, rng: np.random.Generator, tint: RGB, light_from_left: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One thing as a tile: colours float32 [h, w, 3] 0..255, multiplied by nothing, and coverage [h, w] 0..1."""
    width = max(4, round(height * KINDS[kind].aspect))
    canvas = Canvas(height, width)
    KINDS[kind].paint(canvas, colour, rng)
    alpha = np.asarray(canvas.alpha.reduce(SUPERSAMPLE), np.float32) / 255
    # Reducing the colours alone would darken the edges: the tile's own background is black.
    solid = Image.composite(canvas.rgb, Image.new("RGB", canvas.size), canvas.alpha)
    rgb = np.asarray(solid.reduce(SUPERSAMPLE), np.float32) / np.maximum(alpha, 1 / 255)[..., None]
    if rng.random() < 0.5:
        rgb, alpha = rgb[:, ::-1], alpha[:, ::-1]
    across = np.linspace(0, 1, width, dtype=np.float32)
    across = (1 - across if light_from_left else across)[None, :, None]
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    shade = 0.84 + 0.24 * across - 0.08 * down
    return np.clip(rgb * shade * np.array(tint, np.float32), 0, 255), alpha
