"""CLIP's text encoders, as each family wants them."""

from __future__ import annotations

from typing import Any

import torch

from gesso_export.networks.module import NetworkModule


class TextEncoder(NetworkModule):
    """input_ids [B, tokens], clip_skip [B] -> prompt_embeds [B, tokens, hidden].

    `clip_skip` is how many of the last layers are left out; the final norm is not one of them, as in diffusers.
    """

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> torch.Tensor:
        layers = self.model(input_ids=input_ids, output_hidden_states=True).hidden_states[1:]
        picked = layers[-1]
        for skipped, layer in enumerate(reversed(layers[:-1]), start=1):
            picked = torch.where(clip_skip[:, None, None] == skipped, layer, picked)
        return self.model.final_layer_norm(picked).float()


class PenultimateTextEncoder(NetworkModule):
    """input_ids [B, tokens], clip_skip [B] -> prompt_embeds [B, tokens, hidden], of the last layer but one, unnormed.

    SDXL's first text encoder. `clip_skip` leaves out further layers.
    """

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> Any:
        return _penultimate(self.model(input_ids=input_ids, output_hidden_states=True), clip_skip)


class PooledTextEncoder(NetworkModule):
    """The same and text_embeds [B, projection], the projected summary of the text: SDXL's second text encoder."""

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> Any:
        answer = self.model(input_ids=input_ids, output_hidden_states=True)
        return _penultimate(answer, clip_skip), answer.text_embeds.float()


def _penultimate(answer: Any, clip_skip: torch.Tensor) -> torch.Tensor:
    layers = answer.hidden_states[1:-1]
    picked = layers[-1]
    for skipped, layer in enumerate(reversed(layers[:-1]), start=1):
        picked = torch.where(clip_skip[:, None, None] == skipped, layer, picked)
    return picked.float()


class SummaryTextEncoder(NetworkModule):
    """input_ids [B, tokens] -> text_embeds [B, hidden], CLIP's summary of the text: FLUX's first text encoder."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids).pooler_output.float()
