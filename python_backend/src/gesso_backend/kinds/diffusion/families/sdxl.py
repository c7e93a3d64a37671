"""Stable Diffusion XL, its inpainting variants and SDXL-Turbo (Podell et al., arXiv:2307.01952).

Two CLIP text encoders side by side, the second one's pooled answer, and the sizes a training picture had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families import clip
from gesso_backend.kinds.diffusion.families.family import Conditioning, Encoded, Texts
from gesso_backend.kinds.diffusion.families.stable_diffusion import StableDiffusion
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer


class StableDiffusionXL(StableDiffusion):
    """As its forerunners but for what conditions the UNet."""

    name = "stable-diffusion-xl"
    text_encoders = ("text_encoder", "text_encoder_2")

    def schedule(self, request: Request, bundle: DiffusionBundle, latent_shape: tuple[int, int]) -> dict[str, Any]:
        return {"config": bundle.scheduler.config}

    def encode(self, request: Request, bundle: DiffusionBundle, tokenizers: Mapping[str, PromptTokenizer]) -> Encoded:
        prompts: dict[str, dict[str, str]] = {encoder: {} for encoder in self.text_encoders}
        negative = self.guidance(request) > 1 and not self._zero_negative(request, bundle)
        for field, second in (*((_NEGATIVE,) if negative else ()), _POSITIVE):
            first, other = getattr(request, field), getattr(request, second)
            prompts["text_encoder"][field] = first
            prompts["text_encoder_2"][second if other else field] = other or first
        strength = 1 if self._zero_nothing(bundle) else request.negative_prompt_strength
        return clip.encode(prompts, request, tokenizers, negative and strength != 1)

    def condition(
        self, request: Request, bundle: DiffusionBundle, texts: Mapping[str, Texts], size: tuple[int, int]
    ) -> Conditioning:
        guided = self.guidance(request) > 1
        zero = guided and self._zero_negative(request, bundle)
        embeddings = []
        for encoder in self.text_encoders:
            count = len(texts[encoder].ids)
            # As in diffusers, the negative prompt is always read from the last layer but one.
            clip_skip = [0] * count
            clip_skip[0 if zero or not guided else 1] = request.clip_skip
            outputs = yield from clip.run(encoder, texts[encoder], clip_skip)
            embeddings.append(outputs["prompt_embeds"])
        rows = [np.concatenate(embeddings, axis=2), outputs["text_embeds"]]
        if zero:
            rows = [np.concatenate([np.zeros_like(row), row]) for row in rows]
        elif guided and self._zero_nothing(bundle):
            strength = np.array([request.negative_prompt_strength, 1], np.float32)
            rows = [row * strength.reshape(-1, *[1] * (row.ndim - 1)) for row in rows]
        else:
            rows = [clip.tempered(row, request.negative_prompt_strength) for row in rows]
        time_ids = [_time_ids(request, "", size)]
        if guided:
            time_ids.insert(0, _time_ids(request, "negative_", size))
        hidden, pooled = rows
        return {"encoder_hidden_states": hidden, "text_embeds": pooled, "time_ids": np.array(time_ids, np.float32)}

    @staticmethod
    def _zero_nothing(bundle: DiffusionBundle) -> bool:
        """Whether no prompt is zeros, to this checkpoint; else it is the empty text."""
        return bool(bundle.options.get("force_zeros_for_empty_prompt"))

    def _zero_negative(self, request: Request, bundle: DiffusionBundle) -> bool:
        return self._zero_nothing(bundle) and not (request.negative_prompt or request.negative_prompt_2)


_POSITIVE, _NEGATIVE = ("prompt", "prompt_2"), ("negative_prompt", "negative_prompt_2")


def _time_ids(request: Request, prefix: str, size: tuple[int, int]) -> tuple[int, ...]:
    """What the network is told of the picture's past: its size before scaling, the crop's corner, its size now."""
    names = ("original_size", "crops_coords_top_left", "target_size")
    # What is not said of the negative is the positive one's.
    original, corner, target = (getattr(request, prefix + name) or getattr(request, name) for name in names)
    return (*(original or size), *(corner or (0, 0)), *(target or size))


FAMILY = StableDiffusionXL()
