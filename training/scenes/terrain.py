"""Landscapes: sky, sun or moon, clouds, ridges and ground, as functions of pixel coordinates.

Edges are smoothed over one pixel where they are computed, so nothing is drawn larger and reduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.scenes.colours import RGB, mix

Field = np.ndarray  # float32 [H, W] or [H, W, 3]


@dataclass(frozen=True)
class Light:
    """One time of day. Colours of the sky are 0..255; `tint` multiplies all that is lit."""

    top: RGB
    low: RGB
    disc: RGB
    tint: RGB


@dataclass(frozen=True)
class Place:
    ridges: tuple[RGB, ...]  # far to near
    near: RGB  # the ground at the viewer's feet
    far: RGB  # and at the horizon
    peaks: float  # height of the ridges, in parts of the picture
    grain: tuple[float, float]  # cells of the ground's texture across the picture's height: horizontal, vertical
    contrast: float


LIGHTS: Mapping[str, Light] = {
    "morning": Light((138, 178, 222), (250, 222, 196), (255, 246, 214), (1.0, 0.97, 0.93)),
    "day": Light((62, 132, 212), (188, 220, 242), (255, 252, 226), (1.0, 1.0, 1.0)),
    "sunset": Light((84, 74, 148), (252, 152, 92), (255, 214, 128), (1.0, 0.90, 0.84)),
    "night": Light((20, 26, 66), (72, 84, 138), (236, 238, 246), (0.70, 0.74, 0.86)),
}

PLACES: Mapping[str, Place] = {
    "meadow": Place(((120, 158, 140), (96, 150, 92)), (74, 138, 48), (142, 178, 92), 0.07, (40, 14), 0.09),
    "hills": Place(((122, 142, 170), (104, 146, 116), (86, 138, 78)), (92, 128, 56), (128, 160, 84),
                   0.13, (24, 12), 0.08),
    "sea": Place(((110, 136, 160),), (36, 104, 140), (94, 156, 184), 0.04, (7, 52), 0.10),
    "snow": Place(((150, 168, 196), (196, 208, 226)), (232, 238, 246), (206, 218, 234), 0.17, (10, 16), 0.05),
    "desert": Place(((192, 138, 100), (212, 160, 108)), (224, 180, 112), (232, 198, 140), 0.08, (6, 30), 0.09),
}  # fmt: skip
SAND: RGB = (226, 206, 158)


@dataclass(frozen=True)
class Land:
    """A landscape without things in it."""

    pixels: Field  # [H, W, 3], 0..255
    place: str
    time: str
    horizon: float  # y, in parts of the height
    shore: float  # where the beach begins, in parts of the height; 1 or more without one
    light_from_left: bool

    @property
    def tint(self) -> RGB:
        return LIGHTS[self.time].tint


def land(rng: np.random.Generator, height: int, width: int) -> Land:
    """Draw one at random."""
    place = str(rng.choice(list(PLACES)))
    time = str(rng.choice(list(LIGHTS), p=(0.2, 0.45, 0.2, 0.15)))
    horizon = float(rng.uniform(0.36, 0.62))
    shore = float(rng.uniform(horizon + 0.16, 0.86)) if place == "sea" else 2.0
    left = bool(rng.random() < 0.5)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    light, scale = LIGHTS[time], float(height)
    pixels = _sky(rng, light, rows / scale, columns / scale, horizon, left, time)
    spec = PLACES[place]
    for i, colour in enumerate(spec.ridges):
        depth = (i + 1) / (len(spec.ridges) + 1)  # 0 far .. 1 near
        base = horizon + 0.02 - 0.03 * (1 - depth) * spec.peaks / 0.1
        line = base - spec.peaks * (1.15 - 0.75 * depth) * (0.45 + 0.75 * _ridge(rng, columns[0] / scale, i))
        lit = mix(_tinted(colour, light.tint), light.low, 0.55 * (1 - depth))
        shade = 1 + 0.10 * _noise(rng, height, width, 9, 9)[..., None]
        pixels = _over(pixels, np.array(lit, np.float32) * shade, (rows - line * scale))
    pixels = _ground(rng, pixels, place, light, rows, columns, horizon, shore)
    return Land(np.clip(pixels, 0, 255), place, time, horizon, shore, left)


def _sky(rng: np.random.Generator, light: Light, y: Field, x: Field, horizon: float, left: bool, time: str) -> Field:
    height, width = y.shape
    fall = np.clip(y / horizon, 0, 1)[..., None] ** 1.3
    sky = np.array(light.top, np.float32) * (1 - fall) + np.array(light.low, np.float32) * fall
    if time == "night":
        for _ in range(int(rng.integers(4, 12))):
            dy, dx = y - rng.uniform(0, horizon), x - rng.uniform(0, width / height)
            sky = sky + 110 * np.exp(-(dy**2 + dx**2) / (2 * 0.006**2))[..., None]
    if rng.random() < 0.75:
        across = rng.uniform(0.08, 0.4) if left else rng.uniform(0.6, 0.92)
        high = horizon * (rng.uniform(0.6, 0.95) if time == "sunset" else rng.uniform(0.15, 0.5))
        radius = rng.uniform(0.04, 0.07)
        distance = np.hypot(y - high, x - across * width / height)
        glow = np.exp(-((distance / (radius * 3.0)) ** 2))[..., None] * (0.25 if time == "night" else 0.55)
        sky = sky * (1 - glow) + np.array(light.disc, np.float32) * glow
        sky = _over(sky, np.array(light.disc, np.float32), (radius - distance) * height)
    if rng.random() < 0.75:
        cells = rng.uniform(2.5, 5)
        puffs = _noise(rng, height, width, cells * 2.4, cells) + 0.35 * _noise(rng, height, width, 18, 9)
        thick = np.clip((puffs - rng.uniform(0.05, 0.4)) * 2.2, 0, 1) * np.clip(1.15 - y / horizon, 0, 1)
        share = (0.75 * thick)[..., None]
        cloud = np.array(mix(light.low, (255, 255, 255), 0.15 if time == "night" else 0.62), np.float32)
        sky = sky * (1 - share) + cloud * share
    return sky


def _ground(
    rng: np.random.Generator,
    pixels: Field,
    place: str,
    light: Light,
    rows: Field,
    columns: Field,
    horizon: float,
    shore: float,
) -> Field:
    height, width = rows.shape
    scale, spec = float(height), PLACES[place]
    y = rows / scale
    near = np.clip((y - horizon) / (1 - horizon), 0, 1)[..., None]
    colour = np.array(_tinted(spec.far, light.tint), np.float32) * (1 - near)
    colour = colour + np.array(_tinted(spec.near, light.tint), np.float32) * near
    if place == "sea":  # the sky is in it
        colour = 0.72 * colour + 0.28 * (np.array(light.low, np.float32) * (1 - near) + np.array(light.top) * near)
    across, down = spec.grain
    texture = _noise(rng, height, width, down, across) + 0.8 * _noise(rng, height, width, 5, 5)
    colour = colour * (1 + spec.contrast * (0.35 + near) * texture[..., None] * 0.8)
    line = horizon + (0.0 if place == "sea" else 0.025) * _ridge(rng, columns[0] / scale, 0)
    pixels = _over(pixels, colour, rows - line * scale)
    if shore < 1:
        edge = shore + 0.03 * _ridge(rng, columns[0] / scale, 1)
        sand = np.array(_tinted(SAND, light.tint), np.float32)
        sand = sand * (1 + 0.05 * _noise(rng, height, width, 24, 24)[..., None])
        pixels = _over(pixels, np.array(_tinted((240, 244, 244), light.tint), np.float32), rows - (edge - 0.02) * scale)
        pixels = _over(pixels, sand, rows - edge * scale)
    return pixels


def _tinted(colour: RGB, tint: RGB) -> RGB:
    return (colour[0] * tint[0], colour[1] * tint[1], colour[2] * tint[2])


def _over(below: Field, above: Field, inside: Field) -> Field:
    """`above` where `inside` (pixels past the edge) is positive, smoothed over one pixel."""
    share = np.clip(inside + 0.5, 0, 1)[..., None]
    return below * (1 - share) + above * share


def _ridge(rng: np.random.Generator, x: Field, roughness: int) -> Field:
    """A line of hills over x, about -1..1."""
    line = np.zeros_like(x)
    for octave in range(1, 4 + roughness):
        line += np.sin(x * octave * rng.uniform(2.2, 4.2) + rng.uniform(0, 2 * np.pi)) / octave**1.2
    return line / 1.7


def _noise(rng: np.random.Generator, height: int, width: int, down: float, across: float) -> Field:
    """Smooth noise, about -1..1, with so many cells in the picture's height, and in as much of its width."""
    rows, columns = max(2, round(down)), max(2, round(across * width / height))
    grid = Image.fromarray(rng.uniform(-1, 1, (rows + 1, columns + 1)).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box=(0.5, 0.5, columns + 0.5, rows + 0.5)))
