"""One step painted by a finished bundle, of which only the folder is read, and by numpy beside its networks.

The plainest loop that there is, by the papers' formulas; it shares nothing with the exporter's reading of a checkpoint.
Of a network that is not in float32, rounding would hide a small misreading; so it can be replaced by the one it was
made from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
import torch

from gesso_export.bundle.manifest import Bundle, read
from gesso_export.errors import VerificationError, first_line
from gesso_export.proof import sketch
from gesso_export.proof.reference import Array, Arrays
from gesso_export.proof.sketch import Painted
from gesso_export.proof.verify import session

FLOW = "flux"  # the family that predicts velocities
_LOGVAR = (-30.0, 20.0)  # what every diffusers VAE clamps it to
_GUIDANCE = 2.0
_PACK = 2  # latents a token of FLUX is wide and high

Answer = Callable[[Arrays], list[Array]]  # of a network, in the order of its outputs


def paint(folder: Path, replaced: Mapping[str, Answer] | None = None) -> Painted:
    """What the bundle in `folder` makes of the sketch. One network is in memory at a time.

    replaced: by name, who answers in a network's place.
    """
    bundle = read(folder)
    painter = (_Flow if bundle.family == FLOW else _Diffusion)(folder, bundle, replaced or {})
    texts = painter.texts()
    latents = painter.step(texts)
    (decoded,) = painter.run("vae_decoder", latents=painter.unscaled(latents)).values()
    picture = np.clip(decoded / 2 + 0.5, 0, 1)[0].transpose(1, 2, 0)
    return Painted(texts, painter.packed(latents), picture)


def guidance_scale(bundle: Bundle) -> float:
    """The model's own default. Between two predictions, at most 2: both count, and rounding is hardly multiplied."""
    parameter = bundle.parameters.get("guidance_scale")
    default = float(parameter.default or 0) if parameter else 0.0
    return default if bundle.family == FLOW else min(default, _GUIDANCE)


def alphas_cumprod(config: Mapping[str, Any]) -> Array:
    """Of a scheduler's config, float64 [timesteps] (arXiv:2006.11239; without a terminal signal: arXiv:2305.08891)."""
    steps = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    kind = config.get("beta_schedule", "linear")
    if (trained := config.get("trained_betas")) is not None:
        betas = np.asarray(trained, np.float64)
    elif kind == "linear":
        betas = np.linspace(start, end, steps)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    else:  # squaredcos_cap_v2 (arXiv:2102.09672)
        bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    alphas = np.cumprod(1 - betas)
    if config.get("rescale_betas_zero_snr"):
        root = np.sqrt(alphas)
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return np.asarray(alphas)


class _Painter:
    def __init__(self, folder: Path, bundle: Bundle, replaced: Mapping[str, Answer]) -> None:
        self.folder, self.bundle, self.replaced = folder, bundle, replaced
        self.guidance = guidance_scale(bundle)
        self.noise = torch.Generator().manual_seed(sketch.SEED)
        self.pixels, self.mask = 2 * sketch.image() - 1, sketch.mask()
        factor = bundle.vae.factor
        self.shape = 1, bundle.vae.latent_channels, sketch.HEIGHT // factor, sketch.WIDTH // factor

    def texts(self) -> Arrays:
        raise NotImplementedError

    def step(self, texts: Arrays) -> Array:
        raise NotImplementedError

    def packed(self, latents: Array) -> Array:
        return latents

    def run(self, name: str, **inputs: Any) -> Arrays:
        """What a network answers, by output."""
        spec = self.bundle.networks[name]
        typed = {key: np.asarray(inputs[key], spec.inputs[key].dtype) for key in spec.inputs}
        names = list(spec.outputs)
        if name in self.replaced:
            return dict(zip(names, self.replaced[name](typed), strict=True))
        network: onnxruntime.InferenceSession = session(self.folder / spec.file)
        try:
            return dict(zip(names, network.run(names, typed), strict=True))
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise VerificationError(f"{name} cannot be run on what the others answer: {first_line(error)}") from error

    def ids(self, encoder: str, prompts: Sequence[str]) -> Array:
        """[prompts, max_length]"""
        spec = self.bundle.tokenizers[encoder]
        tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / spec.file))
        begin = [] if spec.bos_token_id is None else [spec.bos_token_id]
        texts = [
            [*begin, *tokenizer.encode(prompt, add_special_tokens=False).ids, spec.eos_token_id] for prompt in prompts
        ]
        return np.array([words + [spec.pad_token_id] * (spec.max_length - len(words)) for words in texts])

    def draw(self) -> Array:
        return np.asarray(torch.randn(self.shape, generator=self.noise).numpy())

    def encoded(self, pixels: Array) -> Array:
        """Scaled latents drawn from what the VAE says of the pixels."""
        (moments,) = self.run("vae_encoder", sample=pixels).values()
        mean, logvar = np.split(moments, 2, axis=1)
        sample = mean + np.exp(np.clip(logvar, *_LOGVAR) / 2) * self.draw()
        return np.asarray((sample - self.bundle.vae.shift_factor) * self.bundle.vae.scaling_factor)

    def unscaled(self, latents: Array) -> Array:
        return np.asarray(latents / self.bundle.vae.scaling_factor + self.bundle.vae.shift_factor)


class _Diffusion(_Painter):
    """Stable Diffusion 1, 2 and XL."""

    def texts(self) -> Arrays:
        positive, *negative = self._texts([sketch.PROMPT, ""] if self.guidance > 1 else [sketch.PROMPT])
        if negative and self.bundle.options.get("force_zeros_for_empty_prompt"):
            negative = [{name: np.zeros_like(value) for name, value in positive.items()}]
        return positive | {f"negative_{name}": value for texts in negative for name, value in texts.items()}

    def _texts(self, prompts: Sequence[str]) -> list[Arrays]:
        answers = [
            self.run(encoder, input_ids=self.ids(encoder, prompts), clip_skip=[0] * len(prompts))
            for encoder in self.bundle.tokenizers
        ]
        texts = {"prompt_embeds": np.concatenate([answer["prompt_embeds"] for answer in answers], axis=-1)}
        if "text_embeds" in answers[-1]:
            texts["pooled_prompt_embeds"] = answers[-1]["text_embeds"]
        return [{name: value[row : row + 1] for name, value in texts.items()} for row in range(len(prompts))]

    def step(self, texts: Arrays) -> Array:
        config = self.bundle.scheduler.config
        alphas = alphas_cumprod(config)
        timestep = int(sketch.STEP * len(alphas))
        signal, sigma = math.sqrt(alphas[timestep]), math.sqrt(1 - alphas[timestep])
        if self.bundle.native_inpainting:
            latents = self.draw()
            small = self.mask[..., :: self.bundle.vae.factor, :: self.bundle.vae.factor]
            sample = np.concatenate([latents, small, self.encoded(self.pixels * (1 - self.mask))], axis=1)
        else:
            latents = signal * self.encoded(self.pixels)
            latents = sample = latents + sigma * self.draw()
        sides = ["negative_", ""] if self.guidance > 1 else [""]

        def both(name: str) -> Array:
            return np.concatenate([texts[side + name] for side in sides])

        size = [sketch.HEIGHT, sketch.WIDTH]
        (answer,) = self.run(
            self.bundle.denoiser,
            sample=np.repeat(sample, len(sides), axis=0),
            timestep=[timestep] * len(sides),
            encoder_hidden_states=both("prompt_embeds"),
            text_embeds=both("pooled_prompt_embeds") if "pooled_prompt_embeds" in texts else None,
            time_ids=[[*size, 0, 0, *size]] * len(sides),
        ).values()
        predicted = answer[-1:]
        if self.guidance > 1:
            predicted = answer[:1] + self.guidance * (predicted - answer[:1])
        if config.get("prediction_type", "epsilon") == "v_prediction":
            return np.asarray(signal * latents - sigma * predicted)
        return np.asarray((latents - sigma * predicted) / signal)


class _Flow(_Painter):
    """FLUX.1."""

    def texts(self) -> Arrays:
        first, second = (
            self.run(encoder, input_ids=self.ids(encoder, [sketch.PROMPT])) for encoder in self.bundle.tokenizers
        )
        return {"prompt_embeds": second["prompt_embeds"], "pooled_prompt_embeds": first["text_embeds"]}

    def step(self, texts: Arrays) -> Array:
        sigma = self._shifted(sketch.STEP)
        latents = (1 - sigma) * self.encoded(self.pixels)
        latents = sample = latents + sigma * self.draw()
        if self.bundle.native_inpainting:
            factor = self.bundle.vae.factor
            squares = self.mask.reshape(1, self.shape[2], factor, self.shape[3], factor)
            masks = squares.transpose(0, 2, 4, 1, 3).reshape(1, factor**2, *self.shape[2:])
            sample = np.concatenate([latents, self.encoded(self.pixels * (1 - self.mask)), masks], axis=1)
        (velocity,) = self.run(
            self.bundle.denoiser,
            sample=sample,
            timestep=[1000 * sigma],
            encoder_hidden_states=texts["prompt_embeds"],
            pooled_projections=texts["pooled_prompt_embeds"],
            guidance=[self.guidance],
        ).values()
        return np.asarray(latents - sigma * velocity)

    def _shifted(self, sigma: float) -> float:
        """As the scheduler shifts it, by the number of tokens or by a constant (arXiv:2403.03206, section 5.3.2)."""
        config = self.bundle.scheduler.config
        shift = config.get("shift", 1.0)
        if config.get("use_dynamic_shifting"):
            few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
            low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
            tokens = self.shape[2] * self.shape[3] // _PACK**2
            shift = math.exp(low + (high - low) * (tokens - few) / (many - few))
        return float(shift * sigma / (1 + (shift - 1) * sigma))

    def packed(self, latents: Array) -> Array:
        rows, columns = self.shape[2] // _PACK, self.shape[3] // _PACK
        cells = latents.reshape(1, self.shape[1], rows, _PACK, columns, _PACK)
        return np.asarray(cells.transpose(0, 2, 4, 1, 3, 5).reshape(1, rows * columns, -1))
