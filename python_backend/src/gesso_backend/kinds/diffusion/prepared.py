"""What can be worked out before any network runs: sizes, crops, masks, token ids and the sampler's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso_backend.arrays import Floats, Pixels, digest
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion import hints, samplers
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families import Family
from gesso_backend.kinds.diffusion.families.family import Texts
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer
from gesso_backend.pixels import canvas as canvases
from gesso_backend.pixels import edge
from gesso_backend.pixels import mask as masks
from gesso_backend.pixels.canvas import Canvas
from gesso_backend.pixels.pixels import to_network


@dataclass(frozen=True)
class Prepared:
    """A request made ready for the networks. h, w: latent size of the canvas."""

    request: Request
    parameters: Mapping[str, Any]  # as they are used, for the report
    canvas: Canvas  # in the image, which may be a piece of the picture
    mask: Pixels | None  # [H, W] of the image; what is no soft edge is 0
    table: samplers.Table
    latent_shape: tuple[int, int]  # (h, w)
    texts: Mapping[str, Texts]  # by text encoder
    rows: int  # of each denoiser call for one picture: two with guidance
    picture: Pixels | None  # [8h, 8w, 3], the canvas of the original
    pixels: Floats | None  # the same [1, 3, 8h, 8w] in [-1, 1]
    repaint: Floats | None  # [1, 1, 8h, 8w]; 1 repaints. An inpainting model without a mask repaints everything
    latent_mask: Floats | None  # [1, 1, h, w]; 1 repaints
    alpha: Pixels | None  # of the crop: weight of the painted pixels
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
    mask = request.mask_image
    if mask is not None:
        mask = edge.settle(mask, request.height * request.width, request.offset)
        warnings += hints.of_edge(request, mask)
    whole = canvases.choose(request.height, request.width, mask, bundle.size, request.padding_mask_crop, request.offset)
    _check_holds(request, whole)
    if mask is not None:
        warnings += hints.of_crop(request, mask, bundle.size)
    canvas = whole.moved(*request.offset)
    if (canvas.scaled_height, canvas.scaled_width) != (canvas.height, canvas.width):
        warnings.append(
            f"worked at {canvas.scaled_width}x{canvas.scaled_height} and scaled back to {canvas.width}x{canvas.height}"
        )

    encoded = family.encode(request, bundle, tokenizers)
    warnings += [*hints.of_prompts(request), *encoded.warnings]

    picture = pixels = repaint = latent_mask = alpha = None
    factor = bundle.vae.factor
    latent_shape = (canvas.work_height // factor, canvas.work_width // factor)
    table = _table(request, bundle, family, latent_shape)
    rows = 2 if family.guidance(request) > 1 else 1
    warnings += hints.of_unused(request, rows == 2, len(table.steps))
    if request.image is not None:
        picture = canvas.cut(request.image)
        pixels = to_network(picture)
    if mask is not None:
        working = canvas.cut_mask(masks.binarise(mask))
        repaint = working[None, None]
        latents, lost = masks.to_latents(working, factor, keep_thin=request.latent_blend)
        latent_mask = latents[None, None]
        if lost and not request.latent_blend:
            warnings.append(f"parts of the mask are thinner than a latent; {lost} latents are not repainted")
        borders = whole.borders(request.height, request.width)
        alpha = masks.feather(canvas.crop(mask), request.mask_feather, borders)
        warnings += hints.of_feather(request, canvas.crop(mask), alpha, borders)
    elif bundle.native_inpainting:
        repaint = np.ones((1, 1, canvas.work_height, canvas.work_width), np.float32)
        latent_mask = np.ones((1, 1, *latent_shape), np.float32)
    return Prepared(
        request=request,
        parameters=request.effective(bundle.parameters),
        canvas=canvas,
        mask=mask,
        table=table,
        latent_shape=latent_shape,
        texts=encoded.texts,
        rows=rows,
        picture=picture,
        pixels=pixels,
        repaint=repaint,
        latent_mask=latent_mask,
        alpha=alpha,
        content=digest({"pixels": _or_empty(pixels), "repaint": _or_empty(repaint)}),
        warnings=tuple(warnings),
    )


def _check_holds(request: Request, canvas: Canvas) -> None:
    """A piece holds all that is worked on. Raises InvalidRequest."""
    if request.picture_size is None or request.image is None:
        return
    (top, left), (height, width) = request.offset, request.image.shape[:2]
    bottom, right = canvas.top + canvas.height, canvas.left + canvas.width
    if not (top <= canvas.top and bottom <= top + height and left <= canvas.left and right <= left + width):
        raise InvalidRequest(
            "picture_offset",
            f"the piece has rows {top} to {top + height - 1} and columns {left} to {left + width - 1} of the picture; "
            f"needed are rows {canvas.top} to {bottom - 1} and columns {canvas.left} to {right - 1}",
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
