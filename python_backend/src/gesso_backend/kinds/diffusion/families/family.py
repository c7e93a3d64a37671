"""The contract of a family: what conditions its network, what its channels are, and what guidance means for it.

The denoising loop knows none of them. It asks the family of its bundle, and everything else (sizes, bounds, samplers,
token limits) it reads from the bundle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from gesso_backend.arrays import Arrays, Floats
from gesso_backend.call import Call
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer

Conditioning: TypeAlias = Generator[Call, Arrays, Mapping[str, Floats]]


@dataclass(frozen=True)
class Texts:
    """The prompts of a request, as one text encoder takes them."""

    ids: npt.NDArray[np.int64]  # [texts, chunks, length]
    weights: Floats  # [texts, chunks, length]


@dataclass(frozen=True)
class Encoded:
    """What became of the prompts of a request."""

    texts: Mapping[str, Texts]  # by text encoder
    warnings: tuple[str, ...]  # of what did not fit


class Family(ABC):
    """One kind of model. Without state: everything of a request is in the arguments."""

    name: ClassVar[str]  # in bundle.json
    text_encoders: ClassVar[tuple[str, ...]]  # networks, each with a tokenizer of the same name

    @abstractmethod
    def inpainting_channels(self, bundle: DiffusionBundle) -> int:
        """How many channels the denoiser's `sample` has if it was trained on masks; a plain one has the latents'."""

    def check(self, request: Request, bundle: DiffusionBundle) -> None:  # noqa: B027 - most refuse nothing
        """Raises InvalidRequest, naming the field, for what a model of this family cannot do."""

    @abstractmethod
    def guidance(self, request: Request) -> float:
        """The scale of classifier-free guidance; at 1 or less there is none, and no second row to pay for."""

    @abstractmethod
    def schedule(self, request: Request, bundle: DiffusionBundle, latent_shape: tuple[int, int]) -> dict[str, Any]:
        """What `samplers.plan` is told besides what the request says: its `config`, and what else this family has."""

    @abstractmethod
    def encode(self, request: Request, bundle: DiffusionBundle, tokenizers: Mapping[str, PromptTokenizer]) -> Encoded:
        """The prompts as tokens. Raises InvalidRequest naming the prompt."""

    @abstractmethod
    def condition(
        self, request: Request, bundle: DiffusionBundle, texts: Mapping[str, Texts], size: tuple[int, int]
    ) -> Conditioning:
        """Call the text encoders; returns the denoiser's inputs that stay as they are from step to step.

        Their rows: the unconditional one if there is guidance, then the conditional one. size: of the canvas, pixels.
        """

    @abstractmethod
    def mask_channels(self, latent_mask: Floats, repaint: Floats, masked_image: Floats) -> list[Floats]:
        """What a denoiser that was trained on masks sees beside the latents, in the order of its channels.

        latent_mask: [1, 1, h, w] and repaint: [1, 1, H, W], 1 repaints; masked_image: latents [1, c, h, w].
        """

    def draws_picture(self, from_noise: bool, native: bool) -> bool:
        """Whether diffusers draws a posterior for the picture, which the noise after it depends on."""
        return not (from_noise and native)
