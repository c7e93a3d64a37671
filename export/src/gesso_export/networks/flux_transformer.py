"""The denoiser of FLUX.1."""

from __future__ import annotations

import math
from typing import Any

import torch

from gesso_export.networks.module import NetworkModule


class Waves(torch.nn.Module):  # type: ignore[misc]
    """diffusers' `Timesteps` with its frequencies as constants.

    Computed in the graph, an exponential may differ in its last bit from torch's: for a guidance of 30, which FLUX
    embeds as 30,000, that bit is a thousandth of a turn.
    """

    def __init__(self, timesteps: Any) -> None:
        super().__init__()
        half = timesteps.num_channels // 2
        assert timesteps.flip_sin_to_cos, "FLUX's embeddings begin with the cosines"
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32)
        exponent /= half - timesteps.downscale_freq_shift
        self.register_buffer("frequencies", torch.exp(exponent), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[B] -> [B, channels]."""
        angles = values[:, None].float() * self.frequencies.float()
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class Last(torch.nn.Module):  # type: ignore[misc]
    """The last of its arguments."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return values[-1]


class FluxTransformer(NetworkModule):
    """Latents as all other networks have them; they are packed, two by two into a token, and unpacked inside.

    sample [B, 16 or 96, h, w], timestep [B] in 0 to 1000, encoder_hidden_states [B, tokens, width],
    pooled_projections [B, width], guidance [B] if the model is guided -> noise_pred [B, 16, h, w].
    """

    def __init__(self, model: Any) -> None:
        # diffusers rounds timestep and guidance to the weights' precision before it embeds them: in half precision, a
        # guidance of 30 by half a hundredth. So they are embedded here, in float32, and handed in as if pooled.
        embed, model.time_text_embed = model.time_text_embed, Last()
        super().__init__(model)
        self.embed = embed

    def prepare_for_tracing(self) -> None:
        self.embed.time_proj = Waves(self.embed.time_proj)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype = self.dtype
        cells = torch.nn.functional.pixel_unshuffle(sample.to(dtype), 2)  # [B, 4 c, h / 2, w / 2]
        rows, columns = cells.shape[2:]
        places = torch.zeros(rows, columns, 3)
        places[..., 1] += torch.arange(rows)[:, None]
        places[..., 2] += torch.arange(columns)[None]
        scales = [timestep] if guidance is None else [timestep, 1000 * guidance]
        velocity = self.model(
            hidden_states=cells.flatten(2).transpose(1, 2),
            timestep=timestep,
            guidance=guidance,
            encoder_hidden_states=encoder_hidden_states.to(dtype),
            pooled_projections=self.embed(*scales, pooled_projections.to(dtype)),
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3),
            img_ids=places.flatten(0, 1),
        ).sample
        cells = velocity.transpose(1, 2).unflatten(2, (rows, columns))
        return torch.nn.functional.pixel_shuffle(cells, 2).float()
