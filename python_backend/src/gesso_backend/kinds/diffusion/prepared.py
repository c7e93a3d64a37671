"""What can be worked out before any network runs: sizes, crops, masks, token ids and the sampler's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso_backend.arrays import Floats, Pixels, digest
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion import samplers
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families import Family
from gesso_backend.kinds.diffusion.families.family import Texts
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer
from gesso_backend.pixels import canvas as canvases
from gesso_backend.pixels import mask as masks
from gesso_backend.pixels.canvas import Canvas
from gesso_backend.pixels.pixels import to_network


@dataclass(frozen=True)
class Prepared:
    """A request made ready for the networks. h, w: latent size of the canvas."""

    request: Request
    parameters: Mapping[str, Any]  # as they are used, for the report
    canvas: Canvas
    table: samplers.Table
    latent_shape: tuple[int, int]  # (h, w)
    texts: Mapping[str, Texts]  # by text encoder
    rows: int  # of each denoiser call for one picture: two with guidance
    picture: Pixels | None  # [8h, 8w, 3], the canvas of the original
    pixels: Floats | None  # the same [1, 3, 8h, 8w] in [-1, 1]
    repaint: Floats | None  # [1, 1, 8h, 8w]; 1 repaints. An inpainting model without a mask repaints everything
    latent_mask: Floats | None  # [1, 1, h, w]; 1 repaints
    alpha: Pixels | None  # [H, W] of the original: weight of the painted pixels
    content: bytes  # a digest of pixels and repaint
    warnings: tuple[str, ...]

    @property
    def num_steps(self) -> int:
        return len(self.table.steps)

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`."""
        return self.request.seed + index


def prepare(
    request: Request, bundle: DiffusionBundle, family: Family, tokenizers: Mapping[str, PromptTokenizer]
) -> Prepared:
    """Raises InvalidRequest for what only shows here: a strength or step count the sampler cannot serve."""
    warnings: list[str] = []
    canvas = canvases.choose(request.height, request.width, request.mask_image, bundle.size, request.padding_mask_crop)
    if (canvas.scaled_height, canvas.scaled_width) != (canvas.height, canvas.width):
        warnings.append(
            f"worked at {canvas.scaled_width}x{canvas.scaled_height} and scaled back to {canvas.width}x{canvas.height}"
        )

    encoded = family.encode(request, bundle, tokenizers)
    warnings += encoded.warnings

    picture = pixels = repaint = latent_mask = alpha = None
    factor = bundle.vae.factor
    latent_shape = (canvas.work_height // factor, canvas.work_width // factor)
    table = _table(request, bundle, family, latent_shape)
    if request.image is not None:
        picture = canvas.cut(request.image)
        pixels = to_network(picture)
    if request.mask_image is not None:
        working = canvas.cut_mask(masks.binarise(request.mask_image))
        repaint = working[None, None]
        latents, lost = masks.to_latents(working, factor, keep_thin=request.latent_blend)
        latent_mask = latents[None, None]
        if lost and not request.latent_blend:
            warnings.append(f"parts of the mask are thinner than a latent; {lost} latents are not repainted")
        alpha = masks.feather(request.mask_image, request.mask_feather)
    elif bundle.native_inpainting:
        repaint = np.ones((1, 1, canvas.work_height, canvas.work_width), np.float32)
        latent_mask = np.ones((1, 1, *latent_shape), np.float32)
    return Prepared(
        request=request,
        parameters=request.effective(bundle.parameters),
        canvas=canvas,
        table=table,
        latent_shape=latent_shape,
        texts=encoded.texts,
        rows=2 if family.guidance(request) > 1 else 1,
        picture=picture,
        pixels=pixels,
        repaint=repaint,
        latent_mask=latent_mask,
        alpha=alpha,
        content=digest({"pixels": _or_empty(pixels), "repaint": _or_empty(repaint)}),
        warnings=tuple(warnings),
    )


def _or_empty(array: Floats | None) -> Floats:
    return np.zeros((0,), np.float32) if array is None else array


def _table(request: Request, bundle: DiffusionBundle, family: Family, latent_shape: tuple[int, int]) -> samplers.Table:
    strength = request.strength if request.image is not None else 1.0
    arguments = {
        "num_inference_steps": request.num_inference_steps,
        "strength": strength,
        "eta": request.eta,
        "timesteps": request.timesteps,
        "sigmas": request.sigmas,
        "timestep_spacing": request.timestep_spacing,
    }
    try:
        return samplers.tabulate(request.scheduler, **arguments | family.schedule(request, bundle, latent_shape))
    except samplers.UnsupportedScheduler as error:
        raise InvalidRequest("scheduler", str(error)) from None
    except samplers.InvalidSteps as error:
        raise InvalidRequest(error.field, error.text) from None
