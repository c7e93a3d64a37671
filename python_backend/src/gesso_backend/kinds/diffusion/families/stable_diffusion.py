"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, and a UNet of 4 channels or, for inpainting, 9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gesso_backend.arrays import Floats
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families import clip
from gesso_backend.kinds.diffusion.families.family import Conditioning, Encoded, Family, Texts
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer


class StableDiffusion(Family):
    name = "stable-diffusion"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def inpainting_channels(self, bundle: DiffusionBundle) -> int:
        return 2 * bundle.vae.latent_channels + 1

    def guidance(self, request: Request) -> float:
        return request.guidance_scale

    def schedule(self, request: Request, bundle: DiffusionBundle, latent_shape: tuple[int, int]) -> dict[str, Any]:
        """The scheduler config after the edits that diffusers' pipelines make to it when they are built.

        All set steps_offset to 1. The inpainting one has PNDM skip its Runge-Kutta warm-up; the other two switch off
        sample clipping (where the file leaves it out, only DDIM and DDPM themselves would clip).
        """
        config = bundle.scheduler.config
        edited = {**config, "steps_offset": 1}
        if request.task == "inpaint":
            edited["skip_prk_steps"] = True
        elif config.get("clip_sample", config.get("_class_name") in ("DDIMScheduler", "DDPMScheduler")):
            edited["clip_sample"] = False
        return {"config": edited}

    def encode(self, request: Request, bundle: DiffusionBundle, tokenizers: Mapping[str, PromptTokenizer]) -> Encoded:
        guided = self.guidance(request) > 1
        fields = {"negative_prompt": request.negative_prompt} if guided else {}
        fields["prompt"] = request.prompt
        (encoder,) = self.text_encoders
        return clip.encode({encoder: fields}, request, tokenizers, guided and request.negative_prompt_strength != 1)

    def condition(
        self, request: Request, bundle: DiffusionBundle, texts: Mapping[str, Texts], size: tuple[int, int]
    ) -> Conditioning:
        (encoder,) = self.text_encoders
        outputs = yield from clip.run(encoder, texts[encoder], [request.clip_skip] * len(texts[encoder].ids))
        return {"encoder_hidden_states": clip.tempered(outputs["prompt_embeds"], request.negative_prompt_strength)}

    def mask_channels(self, latent_mask: Floats, repaint: Floats, masked_image: Floats) -> list[Floats]:
        return [latent_mask, masked_image]


FAMILY = StableDiffusion()
