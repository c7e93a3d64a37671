"""A scene: a landscape with things in it, what is to be said about it, and what it would be without one of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.scenes.colours import COLOURS, mix
from training.scenes.objects import KINDS, paint
from training.scenes.terrain import Land, land

Pixels = np.ndarray  # uint8 [H, W, 3]
Box = tuple[int, int, int, int]  # left, top, right, bottom; the right and the bottom are outside


@dataclass(frozen=True)
class Placed:
    """One thing in a scene."""

    kind: str
    colour: str
    box: Box  # what it covers, its shadow included, cut at the picture's edges
    mask: np.ndarray  # bool [H, W]: its visible pixels


@dataclass(frozen=True)
class Scene:
    image: Pixels
    without: Pixels  # the same scene without its subject
    subject: Placed
    others: tuple[Placed, ...]  # the other things, far to near
    place: str
    time: str


@dataclass(frozen=True)
class _Thing:
    kind: str
    colour: str
    depth: float  # the larger the nearer
    rgb: np.ndarray  # [h, w, 3]
    alpha: np.ndarray  # [h, w]
    top: int
    left: int


def draw(
    seed: int, height: int = 128, width: int = 128, unit: float | None = None, subject: str | None = None
) -> Scene:
    """The scene of a seed. Deterministic; scenes of other sizes differ.

    unit: pixels a house is high, give or take a third; 0.36 of the height unless told.
    subject: the kind of thing it is about; any unless told.
    """
    rng = np.random.default_rng(seed)
    ground = land(rng, height, width)
    unit = unit or 0.36 * height
    kinds = [subject or _kind(rng, ground)] + [
        _kind(rng, ground) for _ in range(int(rng.choice(3, p=(0.5, 0.35, 0.15))))
    ]
    things = [
        _place(rng, kind, ground, height, width, unit * (1.0 if i == 0 else 0.75)) for i, kind in enumerate(kinds)
    ]
    order = sorted(things, key=lambda thing: thing.depth)
    grain = int(np.random.default_rng([seed, 1]).integers(0, 2**31))  # the same with and without the subject
    image, masks = _compose(ground, order, grain)
    without, _ = _compose(ground, [thing for thing in order if thing is not things[0]], grain)
    placed = {id(thing): Placed(thing.kind, thing.colour, _box(thing, height, width), mask)
              for thing, mask in zip(order, masks, strict=True)}  # fmt: skip
    others = tuple(placed[id(thing)] for thing in order if thing is not things[0])
    return Scene(image, without, placed[id(things[0])], others, ground.place, ground.time)


def _kind(rng: np.random.Generator, ground: Land) -> str:
    while True:
        kind = str(rng.choice(list(KINDS)))
        if KINDS[kind].where != "sea" or ground.place == "sea" or rng.random() < 0.25:
            return kind


def _place(rng: np.random.Generator, kind: str, ground: Land, height: int, width: int, unit: float) -> _Thing:
    """A thing of some size, standing or floating where such things do."""
    spec, colour = KINDS[kind], str(rng.choice(list(COLOURS)))
    tall = max(8, round(unit * spec.size * rng.uniform(0.72, 1.3)))
    tint = mix(ground.tint, (1, 1, 1), 0.5)  # the eye corrects for most of the light's colour
    rgb, alpha = paint(kind, COLOURS[colour], tall, rng, tint, ground.light_from_left)
    if spec.where == "sky":
        base = rng.uniform(min(tall / height + 0.02, 0.9), max(ground.horizon + 0.08, tall / height + 0.05))
    elif spec.where == "sea" and ground.place == "sea":
        base = rng.uniform(ground.horizon + 0.06, min(ground.shore, 0.97))
    else:
        start = ground.shore + 0.02 if ground.shore < 1 else ground.horizon + 0.08
        base = rng.uniform(min(start, 0.97), 1.0)
    bottom = max(tall, round(base * height))
    top, left = bottom - tall, round(rng.uniform(-0.1, 1.1) * max(1, width - alpha.shape[1]))
    left = int(np.clip(left, 1, max(1, width - alpha.shape[1] - 1)))
    depth = base if spec.where != "sky" else rng.uniform(0, ground.horizon)
    if spec.where != "sky":
        rgb, alpha = _with_shadow(rgb, alpha)
    return _Thing(kind, colour, depth, rgb, alpha, top, left)


def _with_shadow(rgb: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tile with a soft dark ellipse at its foot, a tenth of its height below it."""
    height, width = alpha.shape
    extra = max(1, height // 14)
    tall = np.pad(alpha, ((0, extra), (0, 0)))
    y, x = np.mgrid[0 : height + extra, 0:width].astype(np.float32) + 0.5
    distance = ((x - width / 2) / (width / 2)) ** 2 + ((y - height) / (2.0 * extra)) ** 2
    shadow = 0.42 * np.clip(1.3 - 1.3 * distance, 0, 1)
    whole = tall + shadow * (1 - tall)
    dark = np.array((26, 28, 44), np.float32)
    colours = np.pad(rgb, ((0, extra), (0, 0), (0, 0)))
    mixed = colours * tall[..., None] + dark * (shadow * (1 - tall))[..., None]
    return mixed / np.maximum(whole, 1 / 255)[..., None], whole


def _compose(ground: Land, things: list[_Thing], grain: int) -> tuple[Pixels, list[np.ndarray]]:
    """The picture, far things first, and each thing's visible pixels."""
    pixels = ground.pixels.copy()
    masks: list[np.ndarray] = []
    for thing in things:
        cover = np.zeros(pixels.shape[:2], np.float32)
        skip = max(0, -thing.top)  # rows above the picture
        window = np.s_[max(0, thing.top) : thing.top + len(thing.alpha), thing.left : thing.left + thing.alpha.shape[1]]
        high, wide = cover[window].shape
        cover[window] = thing.alpha[skip : skip + high, :wide]
        share = cover[window][..., None]
        pixels[window] = pixels[window] * (1 - share) + thing.rgb[skip : skip + high, :wide] * share
        for mask in masks:
            mask &= cover < 0.5
        masks.append(cover >= 0.5)
    pixels += np.random.default_rng(grain).normal(0, 1.2, pixels.shape[:2])[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), masks


def _box(thing: _Thing, height: int, width: int) -> Box:
    tall, wide = thing.alpha.shape
    return (max(0, thing.left), max(0, thing.top), min(width, thing.left + wide), min(height, thing.top + tall))
