"""The decoder's own error at the mask's edge, taken out of what was painted.

A VAE gives back every picture a little off: darker here, smoother there. Where the picture is kept nobody sees it, for
the original is laid over it; at the mask's edge it shows as a seam. There, the error is known: it is the original minus
what was decoded just outside the mask. Continued smoothly under the mask and added to what was painted, it closes the
seam, as a membrane does in Poisson image editing (Perez, Gangnet and Blake, SIGGRAPH 2003).
"""

from __future__ import annotations

import numpy as np

from gesso_backend.arrays import Floats, Pixels

MOST = 64.0  # levels; a larger difference is no decoder's error but something painted that reaches the edge
SWEEPS = 12  # of the smoothing at each scale
CONTEXT = 16  # pixels around the mask whose error is looked at


def close(painted: Pixels, original: Pixels, repaint: Floats) -> Pixels:
    """`painted` [H, W, 3] without the seam to `original` [H, W, 3]; changed only where `repaint` [H, W] is 1."""
    rows, columns = np.flatnonzero(repaint.any(axis=1)), np.flatnonzero(repaint.any(axis=0))
    box = tuple(slice(max(0, int(span[0]) - CONTEXT), int(span[-1]) + 1 + CONTEXT) for span in (rows, columns))
    decoded = painted[box].astype(np.float32)
    inside = repaint[box] > 0
    error = original[box].astype(np.float32) - decoded
    known = ~inside & (np.abs(error).max(axis=2) <= MOST)
    if not known.any():
        return painted
    closed = painted.copy()
    smooth = membrane(error, known.astype(np.float32))
    closed[box][inside] = np.clip(np.rint(decoded + smooth), 0, 255).astype(np.uint8)[inside]
    return closed


def membrane(values: Floats, known: Floats) -> Floats:
    """`values` [H, W, C] where `known` [H, W] is above 0, and a smooth surface between them elsewhere.

    Coarse to fine: each scale starts from the next coarser one and is relaxed towards the mean of its neighbours.
    """
    if known.min() > 0 or max(known.shape) == 1:
        return values
    height, width = known.shape
    even = [(0, height % 2), (0, width % 2)]
    weight = np.pad(known, even)
    weighted = np.pad(values * known[..., None], [*even, (0, 0)])
    total = weight.reshape(_halves(weight)).sum(axis=(1, 3))
    summed = weighted.reshape(*_halves(weight), values.shape[2]).sum(axis=(1, 3))
    coarse = membrane(summed / np.maximum(total, 1e-6)[..., None], np.minimum(total, 1))
    surface = np.repeat(np.repeat(coarse, 2, axis=0), 2, axis=1)[:height, :width]
    free = (known == 0)[..., None]
    surface = np.where(free, surface, values)
    for _ in range(SWEEPS):
        padded = np.pad(surface, [(1, 1), (1, 1), (0, 0)], mode="edge")
        mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        surface = np.where(free, mean, surface)
    return surface


def _halves(array: Floats) -> tuple[int, int, int, int]:
    return array.shape[0] // 2, 2, array.shape[1] // 2, 2
