"""Pictures and masks to send where nobody looks at what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

Pixels = np.ndarray[Any, Any]


def noise(side: int, seed: int = 0) -> Pixels:
    """[side, side, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def middle(side: int) -> Pixels:
    """[side, side] uint8: a square to repaint, half as wide as the picture."""
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    return mask
