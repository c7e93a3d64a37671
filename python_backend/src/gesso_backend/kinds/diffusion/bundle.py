"""The bundle of a diffusion model: what it has beside what every bundle has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gesso_backend.model.bundle import Bundle, NetworkSpec


@dataclass(frozen=True)
class SchedulerSpec:
    config: Mapping[str, Any]  # the checkpoint's scheduler_config.json, as it is


@dataclass(frozen=True)
class VaeSpec:
    factor: int  # pixels per latent, each way
    latent_channels: int
    scaling_factor: float
    shift_factor: float


@dataclass(frozen=True)
class TokenizerSpec:
    file: str
    max_length: int
    bos_token_id: int | None  # None: texts have no begin
    eos_token_id: int
    pad_token_id: int
    embeddings: Mapping[str, int] | None = None  # textual inversions: token -> how many vectors it stands for


@dataclass(frozen=True)
class PreviewSpec:
    matrix: tuple[tuple[float, ...], ...]  # [latent channels, 3]
    bias: tuple[float, ...]  # [3]


@dataclass(frozen=True, kw_only=True)
class DiffusionBundle(Bundle):
    tasks: ClassVar[tuple[str, ...]] = ("inpaint", "image_to_image", "text_to_image")

    family: str
    denoiser: str  # the network that is called at every step
    native_inpainting: bool  # it takes the mask and the masked image as input channels
    scheduler: SchedulerSpec
    vae: VaeSpec
    tokenizers: Mapping[str, TokenizerSpec]  # by text encoder
    preview_rgb: PreviewSpec

    @property
    def denoiser_spec(self) -> NetworkSpec:
        return self.networks[self.denoiser]

    @property
    def latent_factor(self) -> int:
        return self.vae.factor

    @property
    def token_lengths(self) -> tuple[int, int]:
        lengths = [tokenizer.max_length for tokenizer in self.tokenizers.values()]
        return min(lengths), max(lengths)

    def describe(self) -> dict[str, Any]:
        own = {"family": self.family, "native_inpainting": self.native_inpainting}
        return {**super().describe(), **own}
