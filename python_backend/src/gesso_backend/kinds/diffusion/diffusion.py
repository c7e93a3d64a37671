"""The kind `diffusion`: inpainting, image-to-image and text-to-image by denoising."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso_backend.arrays import Arrays, Pixels
from gesso_backend.kinds.diffusion import denoise, families, paint, prepared, request
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.prepared import Prepared
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer, open_tokenizers
from gesso_backend.kinds.kind import Kind, Life, Work
from gesso_backend.model.parameters import OWN


class Diffusion(Kind[Request, Prepared]):
    bundle_type = DiffusionBundle
    own_parameters = tuple(OWN)
    bundle: DiffusionBundle

    def __init__(self, bundle: DiffusionBundle, tokenizers: Mapping[str, PromptTokenizer]) -> None:
        """tokenizers: by text encoder."""
        self.bundle = bundle
        self._tokenizers = tokenizers
        self._family = families.FAMILIES[bundle.family]

    @classmethod
    def check(cls, bundle: DiffusionBundle) -> None:
        families.check(bundle)

    @classmethod
    def check_files(cls, folder: Path, bundle: DiffusionBundle) -> None:
        open_tokenizers(folder, bundle.tokenizers)

    @classmethod
    def open(cls, folder: Path, bundle: DiffusionBundle) -> Diffusion:
        return cls(bundle, open_tokenizers(folder, bundle.tokenizers))

    def parse(self, inputs: Arrays) -> Request:
        parsed = request.parse(inputs, self.bundle)
        self._family.check(parsed, self.bundle)
        return parsed

    def prepare(self, request: Request) -> Prepared:
        return prepared.prepare(request, self.bundle, self._family, self._tokenizers)

    def life(self, prepared: Prepared) -> Life:
        conditions = yield from denoise.encode(prepared, self.bundle, self._family)
        return [
            denoise.sample(prepared, conditions, self.bundle, self._family, index)
            for index in range(prepared.request.num_images_per_prompt)
        ]

    def work(self, prepared: Prepared) -> Work:
        request = prepared.request
        pictures = request.num_images_per_prompt
        size = (request.height, request.width) if request.image is None else request.image.shape[:2]
        previews = (prepared.num_steps - 1) // request.preview_every if request.preview_every else 0
        return Work(
            self.bundle.denoiser,
            calls=pictures * prepared.num_steps,
            rows=prepared.rows,
            shape=prepared.latent_shape,
            pictures=pictures,
            picture_bytes=3 * pictures * math.prod(size),
            preview_bytes=3 * pictures * previews * math.prod(paint.shrunk(size, request.preview_size)),
        )

    def paint(self, prepared: Prepared, pixels: Pixels) -> Pixels:
        return paint.paint(prepared, pixels)

    def preview(self, prepared: Prepared, pixels: Pixels) -> Pixels:
        whole = paint.paint(prepared, paint.enlarge(prepared, pixels))
        return paint.shrink(whole, prepared.request.preview_size)

    def report(self, prepared: Prepared, output: Pixels, index: int) -> dict[str, Any]:
        return paint.report(prepared, output, index)
