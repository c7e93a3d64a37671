"""Pixels on the wire, uint8, and as the networks see them, float32 in [-1, 1]."""

from __future__ import annotations

import numpy as np

from gesso_backend.arrays import Floats, Pixels


def to_network(picture: Pixels) -> Floats:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32 in [-1, 1], in diffusers' arithmetic."""
    scaled = picture.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((2 * scaled - 1).transpose(2, 0, 1)[None])


def to_picture(image: Floats) -> Pixels:
    """[1, 3, H, W] in [-1, 1] -> [H, W, 3] uint8, in diffusers' arithmetic."""
    scaled: Floats = np.clip(image[0] / 2 + np.float32(0.5), 0, 1).transpose(1, 2, 0)
    return np.asarray(np.rint(scaled * 255), np.uint8)
