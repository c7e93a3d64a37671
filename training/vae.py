"""The VAE: trained to reproduce pictures, then its latents are made white."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from training.fit import Schedule, fit
from training.model import FACTOR, LATENT_CHANNELS, make_vae

KL_WEIGHT = 1e-4
SMALL = Schedule(steps=5000, learning_rate=2e-3, decay=0.3, ema=0.995, seed=1)  # on crops of half the size
FULL = Schedule(steps=9000, learning_rate=1e-3, decay=0.9, ema=0.998, seed=2)
SMALL_BATCH, FULL_BATCH = 8, 3


def train_vae(pictures: np.ndarray, folder: Path, device: torch.device) -> AutoencoderKL:
    """pictures: uint8 [N, S, S, 3]. Two passes: crops, which are four times as cheap, then whole pictures."""
    torch.manual_seed(0)
    vae = make_vae().to(memory_format=torch.channels_last)
    size = pictures.shape[1]
    vae = fit("vae-crops", vae, _Loss(pictures, size // 2, SMALL_BATCH, device), SMALL, folder, device)
    vae.requires_grad_(True)
    vae = fit("vae", vae, _Loss(pictures, size, FULL_BATCH, device), FULL, folder, device)
    whiten(vae, pictures[:512], device)
    return vae.eval().requires_grad_(False)


class _Loss:
    def __init__(self, pictures: np.ndarray, size: int, batch: int, device: torch.device) -> None:
        self._pictures, self._size, self._batch, self._device = pictures, size, batch, device

    def __call__(self, vae: nn.Module, random: torch.Generator, step: int) -> Mapping[str, Tensor]:
        images = self._images(random)
        with torch.autocast(self._device.type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample(random)).sample
        error = decoded.float() - images
        edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        kl = posterior.kl().float().mean() / (posterior.mean[0].numel())
        return {"squared": 4 * error.square().mean(), "absolute": error.abs().mean(), "edges": 0.5 * edges,
                "kl": KL_WEIGHT * kl}  # fmt: skip

    def _images(self, random: torch.Generator) -> Tensor:
        """[B, 3, size, size] in -1..1: crops, flipped or not; a third with a grey hole, as the denoiser's are."""
        crops = []
        room = self._pictures.shape[1] - self._size
        for i in torch.randint(len(self._pictures), (self._batch,), generator=random).tolist():
            top, left = (int(torch.randint(room + 1, (), generator=random)) for _ in range(2))
            crops.append(self._pictures[i, top : top + self._size, left : left + self._size])
        images = to_torch(np.stack(crops), self._device)
        flips = torch.rand(self._batch, generator=random) < 0.5
        images[flips.to(self._device)] = images[flips.to(self._device)].flip(-1)
        for i in range(0, self._batch, 3):
            ends = torch.randint(self._size, (4,), generator=random).tolist()
            (top, bottom), (left, right) = sorted(ends[:2]), sorted(ends[2:])
            images[i, :, top:bottom, left:right] = 0
        return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def whiten(vae: nn.Module, pictures: np.ndarray, device: torch.device) -> None:
    """Change the two 1x1 convolutions around the latents so that each channel is of mean 0 and variance 1.

    The decoder sees what it saw before; the pipeline's `scaling_factor` can then be 1.
    """
    means = torch.cat([encode(vae, pictures[i : i + 32], device).flatten(2) for i in range(0, len(pictures), 32)])
    mean, std = means.mean((0, 2)), means.std((0, 2))
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:LATENT_CHANNELS] /= std[:, None, None, None]
    quant.bias[:LATENT_CHANNELS] = (quant.bias[:LATENT_CHANNELS] - mean) / std
    quant.bias[LATENT_CHANNELS:] -= 2 * std.log()  # the second half are log variances


@torch.no_grad()
def encode(vae: nn.Module, pictures: np.ndarray, device: torch.device, masks: np.ndarray | None = None) -> Tensor:
    """Means of the latents, float32 [N, 4, S/8, S/8]. masks: bool [N, S, S], painted over with mid grey."""
    images = to_torch(pictures, device)
    if masks is not None:
        images *= ~torch.from_numpy(masks).to(device)[:, None]
    with torch.autocast(device.type, torch.bfloat16):
        moments = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist.mean
    assert moments.shape[-1] * FACTOR == pictures.shape[2]
    return moments.float()


def to_torch(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
