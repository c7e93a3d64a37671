"""The colours things come in, in sRGB, and the shades of one colour."""

from __future__ import annotations

from collections.abc import Mapping

RGB = tuple[float, float, float]  # 0..255

COLOURS: Mapping[str, RGB] = {
    "red": (205, 38, 38),
    "orange": (238, 132, 28),
    "yellow": (242, 212, 48),
    "green": (44, 148, 62),
    "blue": (42, 92, 205),
    "purple": (122, 58, 168),
    "pink": (242, 132, 182),
    "white": (238, 238, 234),
    "black": (34, 34, 40),
}


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with `share` (0..1) of `b` in it."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def darker(colour: RGB, share: float = 0.3) -> RGB:
    return mix(colour, (20, 20, 30), share)


def lighter(colour: RGB, share: float = 0.25) -> RGB:
    return mix(colour, (255, 255, 250), share)


def ink(colour: RGB) -> tuple[int, int, int]:
    """As Pillow takes it."""
    return (round(colour[0]), round(colour[1]), round(colour[2]))
