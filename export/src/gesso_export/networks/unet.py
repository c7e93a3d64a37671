"""The denoisers of Stable Diffusion 1, 2 and XL."""

from __future__ import annotations

import torch

from gesso_export.networks.module import NetworkModule


class UNet(NetworkModule):
    """sample [B, 4 or 9, h, w], timestep [B], encoder_hidden_states [B, tokens, hidden] -> noise_pred [B, 4, h, w]."""

    def prepare_for_tracing(self) -> None:
        # diffusers upsamples to the sizes of the skip connections only when the input is not a multiple of
        # 2 ** num_upsamplers. The graph must always do so, or it would hold for such multiples alone.
        self.model.num_upsamplers = 30

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.dtype  # the timestep stays float32: it may be fractional, and it is embedded in float32 anyway
        return self.model(sample.to(dtype), timestep, encoder_hidden_states.to(dtype)).sample.float()


class TextTimeUNet(UNet):
    """As `UNet`, with text_embeds [B, projection] and time_ids [B, 6]: SDXL's."""

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        dtype = self.dtype
        added = {"text_embeds": text_embeds, "time_ids": time_ids}  # joined in float32, and cast by the UNet
        hidden = encoder_hidden_states.to(dtype)
        return self.model(sample.to(dtype), timestep, hidden, added_cond_kwargs=added).sample.float()
