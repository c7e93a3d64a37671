"""Compositing: what was painted is laid over the original, and the rest stays as it was. In integers."""

from __future__ import annotations

import numpy as np

from gesso_backend.arrays import REPAINT, Pixels


def composite(original: Pixels, painted: Pixels, alpha: Pixels) -> Pixels:
    """Lay `painted` over `original` with weight `alpha` / 255, in integers; alpha 0 gives the original's bytes.

    original, painted: [H, W, 3]; alpha: [H, W].
    """
    weight = alpha[..., None].astype(np.uint16)
    return np.asarray((original * (255 - weight) + painted * weight + 127) // 255, np.uint8)


def coverage_pct(mask: Pixels, pixels: int | None = None) -> float:
    """How much of the picture is to be repainted, in percent; pixels: of the picture that the mask is a piece of."""
    return round(100 * (np.count_nonzero(mask >= REPAINT) / (pixels or mask.size)), 3)


def changed_outside(original: Pixels, output: Pixels, mask: Pixels) -> int:
    """Count the pixels with mask 0 that differ; the promise is that this is 0."""
    return int(((original != output).any(axis=2) & (mask == 0)).sum())
