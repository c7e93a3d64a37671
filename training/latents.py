"""The training set as the denoiser sees it: every picture once through the VAE, kept in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL

from training.dataset import Dataset
from training.model import FACTOR, LATENT_CHANNELS
from training.vae import to_torch

BATCH = 32


@dataclass(frozen=True)
class Latents:
    """float16, h = w = S / 8. A masked picture is what the pipeline encodes too: mid grey under the mask."""

    images: np.ndarray  # [N, 4, h, w]
    without: np.ndarray  # [N, 4, h, w]
    masked: np.ndarray  # [N, 8, h, w]: the mean, then the standard deviation
    other_masked: np.ndarray  # [N, 8, h, w]
    masks: np.ndarray  # bool [N, h, w], as the pipeline reduces them: one pixel of each 8x8
    other_masks: np.ndarray


def make_latents(dataset: Dataset, vae: AutoencoderKL, folder: Path, device: torch.device) -> Latents:
    """Encode the whole set into `folder`, unless it is there."""
    path = folder / "latents.npz"
    if not path.exists():
        without_mask = np.zeros(dataset.masks.shape[1:], bool)
        count, side = len(dataset.images), dataset.images.shape[1] // FACTOR
        arrays = {
            name: np.empty((count, channels * LATENT_CHANNELS, side, side), np.float16)
            for name, channels in (("images", 1), ("without", 1), ("masked", 2), ("other_masked", 2))
        }
        for i in range(0, count, BATCH):
            part = np.s_[i : i + BATCH]
            for name, pictures, masks, channels in (
                ("images", dataset.images, None, 1),
                ("without", dataset.without, None, 1),
                ("masked", dataset.images, dataset.masks, 2),
                ("other_masked", dataset.images, dataset.other_masks, 2),
            ):
                hidden = without_mask[None] if masks is None else masks[part]
                moments = _encode(vae, pictures[part], hidden, device)
                arrays[name][part] = moments[:, : channels * LATENT_CHANNELS].cpu().numpy()
            if i % (BATCH * 100) == 0:
                print(f"latents: {i} of {count}", flush=True)
        temporary = folder / "latents.tmp.npz"
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    masks = dataset.masks[:, ::FACTOR, ::FACTOR].copy(), dataset.other_masks[:, ::FACTOR, ::FACTOR].copy()
    return Latents(**arrays, masks=masks[0], other_masks=masks[1])


@torch.no_grad()
def _encode(vae: AutoencoderKL, pictures: np.ndarray, hidden: np.ndarray, device: torch.device) -> torch.Tensor:
    """Mean and standard deviation of the latents, [N, 8, h, w]; `hidden` pixels are mid grey."""
    images = to_torch(pictures, device) * ~torch.from_numpy(hidden).to(device)[:, None]
    with torch.autocast(device.type, torch.bfloat16):
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
    return torch.cat((posterior.mean, posterior.std), 1).half()
