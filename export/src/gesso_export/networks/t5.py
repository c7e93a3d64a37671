"""T5's encoder: FLUX's second text encoder."""

from __future__ import annotations

import torch

from gesso_export.networks.module import NetworkModule


class T5TextEncoder(NetworkModule):
    """input_ids [B, tokens] -> prompt_embeds [B, tokens, d_model]. Padding is attended to, as FLUX was trained."""

    def half(self) -> T5TextEncoder:
        """In half precision but for the layers that overflow in it, as transformers itself keeps them."""
        super().half()
        for name, layer in self.model.named_modules():
            if name.endswith(".wo"):
                layer.float()
        return self

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids).last_hidden_state.float()
