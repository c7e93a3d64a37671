"""The two halves of a VAE."""

from __future__ import annotations

from typing import Any

import torch

from gesso_export.networks.module import NetworkModule


class VaeEncoder(NetworkModule):
    """sample [B, 3, H, W] in [-1, 1] -> moments [B, 2 * latent channels, h, w]: mean and unclamped logvar."""

    def __init__(self, model: Any) -> None:
        del model.decoder, model.post_quant_conv
        super().__init__(model)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        moments = self.model.encoder(sample.to(self.dtype))
        if self.model.quant_conv is not None:
            moments = self.model.quant_conv(moments)
        return moments.float()


class VaeDecoder(NetworkModule):
    """latents [B, latent channels, h, w], unscaled -> image [B, 3, H, W], unclamped."""

    def __init__(self, model: Any) -> None:
        del model.encoder, model.quant_conv
        super().__init__(model)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents.to(self.dtype)
        if self.model.post_quant_conv is not None:
            latents = self.model.post_quant_conv(latents)
        return self.model.decoder(latents).float()
