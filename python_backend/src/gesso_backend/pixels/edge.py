"""The soft edge of a mask: which of the levels that are not repainted belong to what is.

Below REPAINT the network keeps the picture, so such a level only makes sense as the edge of a part that is repainted.
What people bring has others: a black of 1, or of 16 as in video, the ringing of a JPEG, a smear in a far corner. They
would make the crop the whole picture, and change all of it faintly. They count as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from gesso_backend.arrays import REPAINT, Pixels
from gesso_backend.pixels.mask import dilate

FLOOR = 8  # levels above black: a JPEG's rounding stays below, and so much paint shows by 3 % at most
CELL = 32  # pixels a side; parts of a mask that are nearer to one another than that are one
NOISE = 4  # times as many pixels below FLOOR as in the edge above it are no tail of that edge


def settle(mask: Pixels, pixels: int, offset: Sequence[int] = (0, 0)) -> Pixels:
    """The mask [H, W] with 0 where a level is no part of a soft edge; what is repainted stays as it is.

    A soft edge is joined to a part that is repainted and ends at the mask's own black. A faint tail below FLOOR is no
    longer than the edge itself. mask: of a picture of so many `pixels` or, at `offset` in it, of a piece outside of
    which it is 0.
    """
    levels = np.array(Image.fromarray(mask).histogram())[:REPAINT]
    if not levels[1:].any():
        return mask
    levels[0] += pixels - mask.size
    floor = _floor(levels)
    bounds = [_bounds(length, start % CELL) for length, start in zip(mask.shape, offset, strict=True)]
    cells = np.maximum.reduceat(np.maximum.reduceat(mask, bounds[0], axis=0), bounds[1], axis=1)
    near = cells >= REPAINT
    steps = 0
    while not np.array_equal(grown := dilate(near) & (cells >= max(floor, FLOOR)) | near, near):
        near, steps = grown, steps + 1
    if floor == 1:
        for _ in range(steps + 1):
            near = dilate(near) & (cells > 0)
    for axis in range(2):
        near = np.repeat(near, np.diff([*bounds[axis], mask.shape[axis]]), axis=axis)
    return np.where(near & (mask >= floor), mask, np.uint8(0))


def _floor(levels: npt.NDArray[np.int_]) -> int:
    """The least level that can be of an edge, of the number of pixels at each level below REPAINT."""
    black = int(levels.argmax())
    around = levels[max(black - FLOOR + 1, 0) : black + FLOOR].sum()
    if black > 0 and 2 * around > levels.sum():
        return min(black + FLOOR, REPAINT)
    return FLOOR if levels[1:FLOOR].sum() > NOISE * levels[FLOOR:].sum() else 1


def _bounds(length: int, start: int) -> list[int]:
    """Where the cells begin in a side whose first pixel is number `start` of its cell."""
    return [0, *range(CELL - start, length, CELL)]
