"""The UNet and the text encoder, trained together to predict v (Salimans & Ho 2022, appendix D)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from training.fit import Schedule, fit
from training.latents import Latents
from training.model import SCHEDULER_CONFIG, make_text_encoder, make_unet
from training.tokens import MAX_TOKENS, Vocabulary, reader

SCHEDULE = Schedule(steps=20_000, learning_rate=8e-4, warmup=200, decay=0.7, ema=0.999, seed=3)
BATCH = 32
QUESTIONS = {"add": 0.46, "remove": 0.32, "fill": 0.22}
DROPPED = 0.1  # prompts replaced by the empty one, so that guidance has something to guide away from
SNR_CAP = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"
OUTSIDE = 0.2  # weight of what the mask does not cover: it is in the input, and the compositing replaces it


class Denoiser(nn.Module):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel = make_unet()
        self.text_encoder: CLIPTextModel = make_text_encoder(vocabulary)

    def forward(self, latents: Tensor, timesteps: Tensor, input_ids: Tensor) -> Tensor:
        """latents: [B, 9, h, w]; timesteps: [B]; input_ids: [B, 77]. Returns v, [B, 4, h, w]."""
        words, rows = torch.unique(input_ids, dim=0, return_inverse=True)
        hidden = self.text_encoder(words).last_hidden_state[rows]
        return self.unet(latents, timesteps, encoder_hidden_states=hidden).sample


def train_denoiser(
    latents: Latents,
    captions: list[dict[str, list[str]]],
    vocabulary: Vocabulary,
    folder: Path,
    device: torch.device,
) -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(vocabulary)
    model.unet.to(memory_format=torch.channels_last)
    loss = _Loss(latents, captions, vocabulary, folder, device)
    # The CPU's fused attention is slow backwards at this size: without it a step takes a tenth less.
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        return fit("denoiser", model, loss, SCHEDULE, folder, device).eval()  # type: ignore[return-value]


def alphas_cumprod() -> Tensor:
    """[1000], float32: the schedule of the checkpoint's scheduler_config.json."""
    start, end = SCHEDULER_CONFIG["beta_start"] ** 0.5, SCHEDULER_CONFIG["beta_end"] ** 0.5
    betas = torch.linspace(start, end, SCHEDULER_CONFIG["num_train_timesteps"], dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class _Loss:
    def __init__(
        self,
        latents: Latents,
        captions: list[dict[str, list[str]]],
        vocabulary: Vocabulary,
        folder: Path,
        device: torch.device,
    ) -> None:
        self._latents, self._captions, self._device = latents, captions, device
        self._alphas = alphas_cumprod()
        vocabulary.write(folder / "tokenizer")
        texts = sorted({"", *(text for row in captions for texts in row.values() for text in texts)})
        ids: Any = reader(folder / "tokenizer")(texts, padding="max_length", max_length=MAX_TOKENS).input_ids
        self._tokens = dict(zip(texts, ids, strict=True))

    def __call__(self, model: nn.Module, random: torch.Generator, step: int) -> Mapping[str, Tensor]:
        x0, masked, mask, ids = self._batch(random)
        noise = torch.randn(x0.shape, generator=random).to(self._device)
        timesteps = torch.randint(len(self._alphas), (len(x0),), generator=random)
        alpha = self._alphas[timesteps].to(self._device)[:, None, None, None]
        noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
        inputs = torch.cat((noisy, mask, masked), 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16):
            predicted = model(inputs, timesteps.to(self._device), ids)
        snr = alpha / (1 - alpha)
        weight = snr.clamp(max=SNR_CAP) / (snr + 1)
        error = weight * (predicted.float() - v).square()
        inside = (error * mask).sum() / (mask.sum() * error.shape[1]).clamp(min=1)
        outside = (error * (1 - mask)).sum() / ((1 - mask).sum() * error.shape[1]).clamp(min=1)
        return {"inside": inside, "outside": OUTSIDE * outside}

    def _batch(self, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x0 [B, 4, h, w], masked picture's latents [B, 4, h, w], mask [B, 1, h, w], input_ids [B, 77]."""
        data = self._latents
        rows = torch.randint(len(data.images), (BATCH,), generator=random).tolist()
        asked = torch.multinomial(torch.tensor(list(QUESTIONS.values())), BATCH, True, generator=random).tolist()
        words = torch.rand(BATCH, generator=random).tolist()
        drops = (torch.rand(BATCH, generator=random) < DROPPED).tolist()
        x0, masked, masks, ids = [], [], [], []
        for i, question, word, drop in zip(rows, asked, words, drops, strict=True):
            name = list(QUESTIONS)[question]
            texts = self._captions[i][name]
            ids.append(self._tokens["" if drop else texts[int(word * len(texts))]])
            x0.append((data.without if name == "remove" else data.images)[i])
            masked.append((data.other_masked if name == "fill" else data.masked)[i])
            masks.append((data.other_masks if name == "fill" else data.masks)[i])
        mean, std = torch.from_numpy(np.stack(masked)).float().chunk(2, 1)
        sampled = mean + std * torch.randn(mean.shape, generator=random)
        return (
            torch.from_numpy(np.stack(x0)).float().to(self._device),
            sampled.to(self._device),
            torch.from_numpy(np.stack(masks)).float()[:, None].to(self._device),
            torch.tensor(ids, device=self._device),
        )
