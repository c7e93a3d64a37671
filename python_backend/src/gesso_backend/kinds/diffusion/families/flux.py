"""FLUX.1 dev, schnell and Fill: a transformer with distilled guidance, flow matching, CLIP's summary and T5's words.

Latents are packed two by two into tokens inside the exported network, so here they have the shape of all latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gesso_backend.arrays import Floats
from gesso_backend.call import Call
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families.family import Conditioning, Encoded, Family, Texts
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.samplers import SAMPLERS
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer

PACK = 2  # latents a token is wide and high


class Flux(Family):
    name = "flux"
    text_encoders = ("text_encoder", "text_encoder_2")  # CLIP, T5

    def inpainting_channels(self, bundle: DiffusionBundle) -> int:
        """Fill sees the masked picture's latents, and the mask itself, a channel for each pixel of a latent."""
        return 2 * bundle.vae.latent_channels + bundle.vae.factor**2

    def check(self, request: Request, bundle: DiffusionBundle) -> None:
        for field in ("negative_prompt", "negative_prompt_2"):
            if getattr(request, field) and self.guidance(request) <= 1:
                raise InvalidRequest(field, "needs a true_cfg_scale above 1: this model's own guidance has no negative")

    def guidance(self, request: Request) -> float:
        return request.true_cfg_scale

    def schedule(self, request: Request, bundle: DiffusionBundle, latent_shape: tuple[int, int]) -> dict[str, Any]:
        """Sigmas from 1 to 1/n, as diffusers' pipelines space them, shifted by the number of tokens of the picture."""
        config = bundle.scheduler.config
        extra: dict[str, Any] = {"config": config, "mu": _mu(config, latent_shape[0] * latent_shape[1] // PACK**2)}
        steps = request.num_inference_steps
        if steps is not None and "sigmas" in SAMPLERS[request.scheduler].takes:
            extra["sigmas"] = np.linspace(1.0, 1 / steps, steps).tolist()
        return extra

    def encode(self, request: Request, bundle: DiffusionBundle, tokenizers: Mapping[str, PromptTokenizer]) -> Encoded:
        texts, warnings = {}, []
        for encoder in self.text_encoders:
            rows = []
            for field, second in (("negative_prompt", "negative_prompt_2"), ("prompt", "prompt_2")):
                if field == "negative_prompt" and self.guidance(request) <= 1:
                    continue
                t5 = encoder == "text_encoder_2"
                name = second if t5 and getattr(request, second) else field
                length = request.max_sequence_length if t5 else None
                tokens = tokenizers[encoder].encode([(getattr(request, name), 1.0)], length=length)
                if tokens.cut:
                    limit = tokens.ids.shape[1]
                    warnings.append(f"{name} is over the limit of {limit} tokens of {encoder}; cut: {tokens.cut!r}")
                rows.append(tokens)
            texts[encoder] = Texts(np.stack([row.ids for row in rows]), np.stack([row.weights for row in rows]))
        return Encoded(texts, tuple(warnings))

    def condition(
        self, request: Request, bundle: DiffusionBundle, texts: Mapping[str, Texts], size: tuple[int, int]
    ) -> Conditioning:
        clip = yield Call.cached("text_encoder", {"input_ids": texts["text_encoder"].ids[:, 0]})
        t5 = yield Call.cached("text_encoder_2", {"input_ids": texts["text_encoder_2"].ids[:, 0]})
        inputs: dict[str, Floats] = {
            "encoder_hidden_states": t5["prompt_embeds"],
            "pooled_projections": clip["text_embeds"],
        }
        if "guidance" in bundle.denoiser_spec.inputs:
            inputs["guidance"] = np.full(len(t5["prompt_embeds"]), request.guidance_scale, np.float32)
        return inputs

    def mask_channels(self, latent_mask: Floats, repaint: Floats, masked_image: Floats) -> list[Floats]:
        rows, columns = latent_mask.shape[2:]
        factor = repaint.shape[2] // rows
        cells = repaint.reshape(1, rows, factor, columns, factor).transpose(0, 2, 4, 1, 3)
        return [masked_image, np.ascontiguousarray(cells.reshape(1, factor * factor, rows, columns))]

    def draws_picture(self, from_noise: bool, native: bool) -> bool:
        return True


def _mu(config: Mapping[str, Any], tokens: int) -> float:
    """The shift for a picture of this many tokens: on the line through the two that the scheduler config gives."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return float(tokens * slope + (low - slope * few))


FAMILY = Flux()
