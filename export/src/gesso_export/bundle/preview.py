"""Latents to rough pixels by one matrix, fitted to the checkpoint's own VAE, for previews while denoising."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gesso_export.bundle.manifest import PreviewRgb, VaeSpec

Picture = NDArray[np.float32]

_PICTURES = 12
_LATENT_SIDE = 16


def fit(encode: Callable[[Picture], NDArray[np.float32]], vae: VaeSpec) -> PreviewRgb:
    """Least squares between scaled latents and pictures downscaled to latent size.

    encode: pictures [1, 3, H, W] in [-1, 1] to moments [1, 2 * latent channels, h, w].
    """
    rows, colours = [], []
    for picture in _pictures(_LATENT_SIDE * vae.factor):
        mean = encode(picture[None])[0, : vae.latent_channels]
        latents = (mean - vae.shift_factor) * vae.scaling_factor
        rows.append(latents.reshape(vae.latent_channels, -1).T)  # [h*w, latent channels]
        small = picture.reshape(3, _LATENT_SIDE, vae.factor, _LATENT_SIDE, vae.factor).mean(axis=(2, 4))
        colours.append(small.reshape(3, -1).T)  # [h*w, 3]
    latents, pixels = np.concatenate(rows).astype(np.float64), np.concatenate(colours).astype(np.float64)
    with_one = np.concatenate([latents, np.ones((len(latents), 1))], axis=1)
    solution = np.linalg.lstsq(with_one, pixels, rcond=None)[0].round(6)  # [latent channels + 1, 3]
    return PreviewRgb(tuple(map(tuple, solution[:-1].tolist())), tuple(solution[-1].tolist()))


def _pictures(side: int) -> list[Picture]:
    """Drawn pictures [3, side, side] in [-1, 1]: a slope between two colours with discs and bars of others on it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    pictures = []
    for _ in range(_PICTURES):
        start, end = rng.uniform(-1, 1, (2, 3, 1, 1))
        angle = rng.uniform(0, 2 * np.pi)
        slope = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) + 0.7) / 1.4
        picture = start + (end - start) * slope
        for _ in range(4):
            centre_x, centre_y = rng.uniform(0, 1, 2)
            disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < rng.uniform(0.05, 0.3) ** 2
            picture = np.where(disc, rng.uniform(-1, 1, (3, 1, 1)), picture)
        left, width = rng.uniform(0, 0.8), rng.uniform(0.05, 0.2)
        picture = np.where((x >= left) & (x < left + width), rng.uniform(-1, 1, (3, 1, 1)), picture)
        pictures.append(picture.astype(np.float32))
    return pictures
