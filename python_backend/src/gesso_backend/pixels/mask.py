"""Masks: which latents the network repaints, and how soft the edge is.

White (255) repaints, black (0) keeps. The network sees the mask binarised at a half, as in diffusers; the values in
between stay soft for compositing only. The user's mask is law: where it is 0, the output is the input, byte for byte.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from gesso_backend.arrays import REPAINT, Floats, Pixels

T = TypeVar("T", np.float32, np.bool_)
Borders: TypeAlias = tuple[tuple[bool, bool], tuple[bool, bool]]


def binarise(mask: Pixels) -> Floats:
    """[H, W] uint8 -> [H, W] float32 of 0 and 1."""
    return (mask >= REPAINT).astype(np.float32)


def to_latents(mask: Floats, factor: int, keep_thin: bool) -> tuple[Floats, int]:
    """A binary mask [H, W] at latent size [H / factor, W / factor], and the number of cells that nearest lost.

    Nearest takes the top-left pixel of each cell, as `torch.nn.functional.interpolate` does in diffusers. Strokes
    thinner than a cell can fall between those pixels and vanish; `keep_thin` brings them back: a cell that holds a mask
    pixel, while nearest found none in it or in the eight cells around it, is repainted too (max-pooling). Edges of
    larger areas have a neighbour that nearest found, so for them the rule is nearest alone.
    """
    nearest = mask[::factor, ::factor]
    h, w = nearest.shape
    pooled = mask.reshape(h, factor, w, factor).max(axis=(1, 3))
    lost = (pooled > 0) & (dilate(nearest) == 0)
    return (np.maximum(nearest, lost) if keep_thin else nearest).astype(np.float32), int(lost.sum())


def feather(mask: Pixels, width: int, borders: Borders = ((True, True), (True, True))) -> Pixels:
    """Soften the edge inside the mask: the weight climbs to the mask's own value over `width` pixels.

    It never reaches outside: 0 stays 0. The picture's border is no edge of the mask.
    borders: whether the mask's first and last row, and its first and last column, lie at the picture's border; where
    they do not, the mask goes on with 0.
    """
    if width == 0:
        return mask
    weighted = mask * depth(mask, width, borders).astype(np.uint32)
    return np.asarray((weighted + (width + 1) // 2) // (width + 1), np.uint8)


def thin(mask: Pixels, width: int, borders: Borders) -> int:
    """How many pixels that are to be repainted keep more than half of the original under a feather of `width`, and so
    do all around them: the mask is too narrow there."""
    shallow = depth(mask, width, borders) <= width // 2
    return int(np.count_nonzero((mask >= REPAINT) & (distance(~shallow, width + 1) > width)))


def depth(mask: Pixels, width: int, borders: Borders) -> npt.NDArray[np.int32]:
    """How far each pixel lies inside the mask: 1 at its edge, and no more than width + 1; outside 1 too."""
    outside = np.pad(mask == 0, [(int(not first), int(not last)) for first, last in borders], constant_values=True)
    found = np.maximum(distance(outside, width + 1), 1)
    (top, bottom), (left, right) = borders
    height, wide = found.shape
    return found[int(not top) : height - (not bottom), int(not left) : wide - (not right)]


def distance(where: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.int32]:
    """Of each pixel to the nearest of those, in steps to one of eight neighbours; `most` where it is no less.

    Two passes over the rows (Rosenfeld and Pfaltz, JACM 1966).
    """
    found = np.where(where, np.int32(0), np.int32(most))
    columns = np.arange(found.shape[1], dtype=np.int32)
    for rows in (found, found[::-1]):
        before = rows[0]
        for row in rows:
            nearer = before + 1
            np.minimum(row, nearer, out=row)
            np.minimum(row[1:], nearer[:-1], out=row[1:])
            np.minimum(row[:-1], nearer[1:], out=row[:-1])
            np.minimum(row, np.minimum.accumulate(row - columns) + columns, out=row)
            np.minimum(row, np.minimum.accumulate((row + columns)[::-1])[::-1] - columns, out=row)
            before = row
    return found


def dilate(cells: npt.NDArray[T]) -> npt.NDArray[T]:
    """3x3 maximum, of numbers or of flags."""
    padded = np.pad(cells, 1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
