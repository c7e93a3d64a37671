"""Which colour was painted: the one that most of the changed pixels are nearest to.

Each colour is known in the shades its painters mix and in the light it may stand in, so that the dark side of a red
house is red. Distances are Euclidean in CIELAB (D65), where one unit is about what the eye can just tell apart.
"""

from __future__ import annotations

import numpy as np

from training.scenes.colours import COLOURS, RGB, darker, lighter
from training.scenes.masks import Mask
from training.scenes.scene import Pixels

CHANGED = 16.0  # units of CIELAB; clouds and grass painted anew stay below
LEAST = 0.05  # the part of the mask that must have changed for anything to have been painted
LIGHT = (0.78, 0.90, 1.02)  # from the dark side of a thing to its lit one
NAMES = tuple(COLOURS)


def read_colour(picture: Pixels, empty: Pixels, mask: Mask) -> str | None:
    """The colour of what `picture` shows inside `mask` and `empty`, the same scene without it, does not.

    None when less than a twentieth of the mask has changed. Windows, trunks and shadows have their say too, and are
    outvoted.
    """
    painted, before = _lab(picture[mask]), _lab(empty[mask])  # [N, 3]
    painted = painted[np.linalg.norm(painted - before, axis=1) > CHANGED]
    if len(painted) < LEAST * mask.sum():
        return None
    distances = np.linalg.norm(painted[:, None] - _SHADES, axis=2)  # [n, shades]
    votes = np.bincount(_OWNERS[distances.argmin(1)], minlength=len(NAMES))
    return NAMES[int(votes.argmax())]


def _shades(colour: RGB) -> list[RGB]:
    return [darker(colour, 0.38), darker(colour, 0.2), colour, lighter(colour, 0.25), lighter(colour, 0.45)]


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255, [..., 3], to CIELAB (IEC 61966-2-1, CIE 15)."""
    level = np.asarray(rgb, np.float64) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ_OF_SRGB.T / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


_XYZ_OF_SRGB = np.array(((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))
_WHITE = _XYZ_OF_SRGB.sum(1)
_LIT = np.array([[np.multiply(shade, light) for shade in _shades(COLOURS[name]) for light in LIGHT] for name in NAMES])
_SHADES = _lab(np.minimum(_LIT, 255).reshape(-1, 3))  # [colours * shades * lights, 3]
_OWNERS = np.repeat(np.arange(len(NAMES)), _LIT.shape[1])
