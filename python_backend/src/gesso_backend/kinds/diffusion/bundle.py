"""The bundle of a diffusion model: what it has beside what every bundle has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gesso_backend.model.bundle import WITHIN, Bundle, NetworkSpec, within


@dataclass(frozen=True)
class SchedulerSpec:
    config: Mapping[str, Any]  # the checkpoint's scheduler_config.json, as it is


@dataclass(frozen=True)
class VaeSpec:
    factor: int = within(1, 64)  # pixels per latent, each way
    latent_channels: int = within(1, 1024)
    scaling_factor: float = within(1e-6, 1e6)
    shift_factor: float = within(-1e6, 1e6)


@dataclass(frozen=True)
class TokenizerSpec:
    file: str
    max_length: int = within(3, 4096)
    bos_token_id: int | None = within(0, 2**31 - 1)  # None: texts have no begin
    eos_token_id: int = within(0, 2**31 - 1)
    pad_token_id: int = within(0, 2**31 - 1)
    # Textual inversions: token -> how many vectors it stands for.
    embeddings: Mapping[str, int] | None = field(default=None, metadata={WITHIN: (1, 1024)})


@dataclass(frozen=True)
class PreviewSpec:
    matrix: tuple[tuple[float, ...], ...] = within(-1e6, 1e6)  # [latent channels, 3]
    bias: tuple[float, ...] = within(-1e6, 1e6)  # [3]


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

    def describe(self, limits: Mapping[str, int]) -> dict[str, Any]:
        own = {"family": self.family, "native_inpainting": self.native_inpainting}
        return {**super().describe(limits), **own}
