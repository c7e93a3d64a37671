"""What can be worked out before any network runs: sizes, crops, masks, token ids and the sampler's plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gesso_backend import canvas as canvases
from gesso_backend import mask as masks
from gesso_backend import samplers
from gesso_backend.bundle import Bundle
from gesso_backend.calls import digest
from gesso_backend.canvas import Canvas
from gesso_backend.errors import InvalidRequest
from gesso_backend.families.family import Texts
from gesso_backend.mask import Floats, Pixels
from gesso_backend.request import Request
from gesso_backend.tokens import PromptTokenizer


@dataclass(frozen=True)
class Prepared:
    """A request made ready for the networks. h, w: latent size of the canvas."""

    request: Request
    parameters: Mapping[str, Any]  # as they are used, for the report
    canvas: Canvas
    plan: samplers.Plan
    latent_shape: tuple[int, int]  # (h, w)
    texts: Mapping[str, Texts]  # by text encoder
    rows: int  # of each denoiser call for one picture: two with guidance
    pixels: Floats | None  # [1, 3, 8h, 8w] in [-1, 1]
    repaint: Floats | None  # [1, 1, 8h, 8w]; 1 repaints. An inpainting model without a mask repaints everything
    latent_mask: Floats | None  # [1, 1, h, w]; 1 repaints
    alpha: Pixels | None  # [H, W] of the original: weight of the painted pixels
    content: bytes  # a digest of pixels and repaint
    warnings: tuple[str, ...]


def prepare(request: Request, bundle: Bundle, tokenizers: Mapping[str, PromptTokenizer]) -> Prepared:
    """Raises InvalidRequest for what only shows here: a strength or step count the sampler cannot serve."""
    warnings: list[str] = []
    family = bundle.kind
    canvas = canvases.choose(request.height, request.width, request.mask_image, bundle.size, request.padding_mask_crop)
    if (canvas.scaled_height, canvas.scaled_width) != (canvas.height, canvas.width):
        warnings.append(
            f"worked at {canvas.scaled_width}x{canvas.scaled_height} and scaled back to {canvas.width}x{canvas.height}"
        )

    encoded = family.encode(request, bundle, tokenizers)
    warnings += encoded.warnings

    pixels = repaint = latent_mask = alpha = None
    factor = bundle.vae.factor
    latent_shape = (canvas.work_height // factor, canvas.work_width // factor)
    plan = _plan(request, bundle, latent_shape)
    if request.image is not None:
        pixels = to_network(canvas.cut(request.image))
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
        plan=plan,
        latent_shape=latent_shape,
        texts=encoded.texts,
        rows=2 if family.guidance(request) > 1 else 1,
        pixels=pixels,
        repaint=repaint,
        latent_mask=latent_mask,
        alpha=alpha,
        content=digest({"pixels": _or_empty(pixels), "repaint": _or_empty(repaint)}),
        warnings=tuple(warnings),
    )


def _or_empty(array: Floats | None) -> Floats:
    return np.zeros((0,), np.float32) if array is None else array


def to_network(picture: Pixels) -> Floats:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32 in [-1, 1], in diffusers' arithmetic."""
    scaled = picture.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((2 * scaled - 1).transpose(2, 0, 1)[None])


def to_picture(image: Floats) -> Pixels:
    """[1, 3, H, W] in [-1, 1] -> [H, W, 3] uint8, in diffusers' arithmetic."""
    scaled: Floats = np.clip(image[0] / 2 + np.float32(0.5), 0, 1).transpose(1, 2, 0)
    return np.asarray(np.rint(scaled * 255), np.uint8)


def _plan(request: Request, bundle: Bundle, latent_shape: tuple[int, int]) -> samplers.Plan:
    strength = request.strength if request.image is not None else 1.0
    asked = {
        "num_inference_steps": request.num_inference_steps,
        "strength": strength,
        "eta": request.eta,
        "timesteps": request.timesteps,
        "sigmas": request.sigmas,
        "timestep_spacing": request.timestep_spacing,
    }
    try:
        return samplers.plan(request.scheduler, **asked | bundle.kind.schedule(request, bundle, latent_shape))
    except samplers.UnsupportedScheduler as error:
        raise InvalidRequest("scheduler", str(error)) from None
    except samplers.InvalidSteps as error:
        raise InvalidRequest(error.field, error.text) from None
