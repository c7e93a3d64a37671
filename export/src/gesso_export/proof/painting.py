"""A few pictures painted by a bundle's own networks, in plain loops: what a precision is calibrated on and judged by.

Only the family `stable-diffusion`. The pictures and prompts are fixed; the sizes come from the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnxruntime
import tokenizers
import torch

from gesso_export.bundle.manifest import NetworkSpec, SchedulerSpec, SizeSpec, TokenizerSpec, VaeSpec
from gesso_export.proof.reference import Array, Arrays

Denoise = Callable[[Arrays], Array]

STEPS = 10
GUIDANCE = 3.0
MAX_SIDE = 256  # pixels; a convolution's range of values depends little on the size, its cost very much
PROMPTS = (
    "a red balloon",
    "a blue house",
    "a beach by the sea on a clear day",
    "a white boat",
    "a green tree",
    "a snowy field at night",
)


@dataclass(frozen=True)
class Painter:
    """Everything of a bundle that painting needs, but the denoiser."""

    text_encoder: onnxruntime.InferenceSession
    vae_encoder: onnxruntime.InferenceSession
    vae_decoder: onnxruntime.InferenceSession
    tokenizer: tokenizers.Tokenizer
    limits: TokenizerSpec
    scheduler: Mapping[str, Any]
    vae: VaeSpec
    side: int  # pixels
    channels: int  # of the denoiser's sample

    @classmethod
    def of(
        cls,
        folder: Path,
        networks: Mapping[str, NetworkSpec],
        limits: TokenizerSpec,
        scheduler: SchedulerSpec,
        vae: VaeSpec,
        size: SizeSpec,
        denoiser: str,
    ) -> Painter:
        """Of the bundle that is being written in `folder`; denoiser: the name of that network."""
        channels = networks[denoiser].inputs["sample"].shape[1]
        assert isinstance(channels, int)
        return cls(
            session(folder / networks["text_encoder"].file),
            session(folder / networks["vae_encoder"].file),
            session(folder / networks["vae_decoder"].file),
            tokenizers.Tokenizer.from_file(str(folder / limits.file)),
            limits,
            scheduler.config,
            vae,
            min(size.native, MAX_SIDE),
            channels,
        )

    def paint(self, number: int, denoise: Denoise, seen: list[Arrays] | None = None) -> Array:
        """Picture `number` [3, side, side] in [-1, 1], 0 outside the mask; `seen` collects the denoiser's inputs."""
        rng = np.random.default_rng(number)
        sampler = diffusers.DDIMScheduler.from_config(self.scheduler)
        sampler.set_timesteps(STEPS)
        latent_side = self.side // self.vae.factor
        mask = np.zeros((1, 1, latent_side, latent_side), np.float32)
        quarter = latent_side // 4
        mask[..., quarter : latent_side - quarter, quarter : latent_side - quarter] = 1
        pixels_mask = mask.repeat(self.vae.factor, 2).repeat(self.vae.factor, 3)
        masked_image_latents = self._encode(landscape(rng, self.side) * (1 - pixels_mask))
        hidden = np.concatenate([self._read(""), self._read(PROMPTS[number % len(PROMPTS)])])
        latents = rng.standard_normal((1, self.vae.latent_channels, latent_side, latent_side)).astype(np.float32)
        for timestep in sampler.timesteps:
            sample = latents
            if self.channels > latents.shape[1]:
                sample = np.concatenate([latents, mask, masked_image_latents], axis=1)
            inputs = {
                "sample": np.repeat(sample, 2, axis=0),
                "timestep": np.full(2, float(timestep), np.float32),
                "encoder_hidden_states": hidden,
            }
            if seen is not None:
                seen.append(inputs)
            uncond, cond = denoise(inputs)[:, None]
            guided = torch.from_numpy(uncond + GUIDANCE * (cond - uncond))
            latents = sampler.step(guided, timestep, torch.from_numpy(latents)).prev_sample.numpy()
        unscaled = latents / np.float32(self.vae.scaling_factor) + np.float32(self.vae.shift_factor)
        picture: Array = self.vae_decoder.run(None, {"latents": unscaled.astype(np.float32)})[0]
        return np.asarray((picture.clip(-1, 1) * pixels_mask)[0])

    def _encode(self, pixels: Array) -> Array:
        moments: Array = self.vae_encoder.run(None, {"sample": pixels.astype(np.float32)})[0]
        mean = np.split(moments, 2, axis=1)[0]
        return np.asarray((mean - np.float32(self.vae.shift_factor)) * np.float32(self.vae.scaling_factor))

    def _read(self, prompt: str) -> Array:
        limits = self.limits
        words = self.tokenizer.encode(prompt, add_special_tokens=False).ids[: limits.max_length - 2]
        begin = [] if limits.bos_token_id is None else [limits.bos_token_id]
        ids = [*begin, *words, limits.eos_token_id]
        ids += [limits.pad_token_id] * (limits.max_length - len(ids))
        inputs = {"input_ids": np.array([ids], np.int64), "clip_skip": np.zeros(1, np.int64)}
        hidden: Array = self.text_encoder.run(None, inputs)[0]
        return hidden


def landscape(rng: np.random.Generator, side: int) -> Array:
    """[1, 3, side, side] in [-1, 1]: a sky, a ground, a horizon between them."""
    heights = np.linspace(0, 1, side)[None, :, None]
    top, middle, ground = rng.uniform(-1, 1, (3, 3, 1, 1))
    horizon = rng.uniform(0.3, 0.7)
    sky = top + (middle - top) * heights / horizon
    rows = np.where(heights < horizon, sky, ground + 0.3 * (heights - horizon))
    return np.broadcast_to(rows.clip(-1, 1), (3, side, side))[None].astype(np.float32)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
