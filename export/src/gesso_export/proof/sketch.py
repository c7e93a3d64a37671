"""What is asked of diffusers' pipeline and of a bundle alike: one prompt, one picture, one mask, one step.

Both draw their noise from torch's generator of this seed, in the order of the pipeline, so that both have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso_export.proof.reference import Array

# Capitals, accents, punctuation and words of several tokens, of which a tokenizer may make something else.
PROMPT = "A red balloon over the Café Müller, oil on canvas: 3 boats & an old lighthouse"
SEED = 20
STEP = 0.7  # of the schedule: noise enough for the text to matter, picture enough for the VAE to
HEIGHT, WIDTH = 64, 128  # a multiple of all that models want, and not square


@dataclass(frozen=True)
class Painted:
    """What came of it."""

    texts: Mapping[str, Array]  # by diffusers' names: prompt_embeds, negative_prompt_embeds, ...
    latents: Array  # [1, channels, h, w], scaled, after the step; FLUX's packed as diffusers packs them
    picture: Array  # [H, W, 3] in 0 to 1


def image() -> Array:
    """float32 [1, 3, HEIGHT, WIDTH] in 0 to 1: slopes of colour with a disc on them."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / HEIGHT
    colours = np.stack([0.25 + 0.45 * y, 0.15 + 0.3 * x, 0.8 - 0.2 * x * y])
    colours[:, (y - 0.45) ** 2 + (x - 0.7) ** 2 < 0.09] = np.array([[0.9], [0.7], [0.15]])
    return np.asarray(colours[None].astype(np.float32))


def mask() -> Array:
    """float32 [1, 1, HEIGHT, WIDTH], 1 where it is painted: edges on every model's latent grid."""
    painted = np.zeros((1, 1, HEIGHT, WIDTH), np.float32)
    painted[..., HEIGHT // 4 :, WIDTH // 4 : 3 * WIDTH // 4] = 1
    return painted


def distance(found: Array, expected: Array) -> float:
    """Root mean square of the difference, in standard deviations of what is expected; infinity for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    difference: Any = found.astype(np.float64) - expected
    return float(np.sqrt(np.square(difference).mean()) / max(expected.std(), 1e-6))
