"""Masks: which latents the network repaints, and how soft the edge is.

White (255) repaints, black (0) keeps. The network sees the mask binarised at a half, as in diffusers; the values in
between stay soft for compositing only. The user's mask is law: where it is 0, the output is the input, byte for byte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gesso_backend.arrays import REPAINT, Floats, Pixels


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
    lost = (pooled > 0) & (_dilate(nearest) == 0)
    return (np.maximum(nearest, lost) if keep_thin else nearest).astype(np.float32), int(lost.sum())


def feather(mask: Pixels, width: int) -> Pixels:
    """Soften the edge inside the mask: the weight climbs to the mask's own value over `width` pixels.

    It never reaches outside: 0 stays 0. The picture's border is no edge of the mask.
    """
    if width == 0:
        return mask
    inside = mask > 0
    depth = np.ones(mask.shape, np.uint16)
    for _ in range(width):
        inside = _erode(inside)
        depth += inside
    weighted = mask * depth.astype(np.uint32)
    return np.asarray((weighted + (width + 1) // 2) // (width + 1), np.uint8)


def _dilate(cells: Floats) -> Floats:
    """3x3 maximum."""
    padded = np.pad(cells, 1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _erode(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """3x3 minimum, with the border repeated so that it does not count as outside."""
    padded = np.pad(inside, 1, mode="edge")
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    return np.asarray(rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:])
