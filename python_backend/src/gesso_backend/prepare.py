"""What can be worked out before any network runs: sizes, crops, masks, token ids and the sampler's plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gesso_backend import canvas as canvases
from gesso_backend import mask as masks
from gesso_backend import samplers
from gesso_backend.bundle import Bundle
from gesso_backend.canvas import Canvas
from gesso_backend.errors import InvalidRequest
from gesso_backend.mask import Floats, Pixels
from gesso_backend.prompts import weighted
from gesso_backend.request import Request, Task
from gesso_backend.tokens import PromptTokenizer

MAX_CHUNKS = 8  # of a long prompt: 600 tokens with CLIP's 75 to a chunk


@dataclass(frozen=True)
class Prepared:
    """A request made ready for the networks. h, w: latent size of the canvas."""

    request: Request
    canvas: Canvas
    plan: samplers.Plan
    latent_shape: tuple[int, int]  # (h, w)
    input_ids: npt.NDArray[np.int64]  # [texts, chunks, max_length]; see _tokens
    token_weights: Floats  # [texts, chunks, max_length]
    pixels: Floats | None  # [1, 3, 8h, 8w] in [-1, 1]
    repaint: Floats | None  # [1, 1, 8h, 8w]; 1 repaints. An inpainting model without a mask repaints everything
    latent_mask: Floats | None  # [1, 1, h, w]; 1 repaints
    alpha: Pixels | None  # [H, W] of the original: weight of the painted pixels
    warnings: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Of each denoiser call for one picture: two with guidance."""
        return 2 if self.request.guided else 1


def prepare(request: Request, bundle: Bundle, tokenizer: PromptTokenizer) -> Prepared:
    """Raises InvalidRequest for what only shows here: a strength or step count the sampler cannot serve."""
    warnings: list[str] = []
    plan = _plan(request, bundle)
    canvas = canvases.choose(request.height, request.width, request.mask_image, bundle.size, request.padding_mask_crop)
    if (canvas.scaled_height, canvas.scaled_width) != (canvas.height, canvas.width):
        warnings.append(
            f"worked at {canvas.scaled_width}x{canvas.scaled_height} and scaled back to {canvas.width}x{canvas.height}"
        )

    input_ids, token_weights, cuts = _tokens(request, tokenizer)
    chunks = f" in each of {MAX_CHUNKS} chunks" if request.long_prompt else ""
    for name, cut in cuts.items():
        warnings.append(f"{name} is over the limit of {bundle.tokenizer.max_length} tokens{chunks}; cut: {cut!r}")

    pixels = repaint = latent_mask = alpha = None
    factor = bundle.vae.factor
    latent_shape = (canvas.work_height // factor, canvas.work_width // factor)
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
        canvas=canvas,
        plan=plan,
        latent_shape=latent_shape,
        input_ids=input_ids,
        token_weights=token_weights,
        pixels=pixels,
        repaint=repaint,
        latent_mask=latent_mask,
        alpha=alpha,
        warnings=tuple(warnings),
    )


def _tokens(request: Request, tokenizer: PromptTokenizer) -> tuple[npt.NDArray[np.int64], Floats, dict[str, str]]:
    """Ids and weights [texts, chunks, max_length], and by its name the end of each text that did not fit.

    The texts are the negative prompt, if it is used, the prompt, and the empty one where the negative prompt is to be
    compared with it. The shorter ones are filled up with chunks of nothing.
    """
    texts = {"negative_prompt": request.negative_prompt} if request.guided else {}
    texts["prompt"] = request.prompt
    most = MAX_CHUNKS if request.long_prompt else 1
    encoded = {
        name: tokenizer.encode(weighted(text, name) if request.prompt_weighting else [(text, 1.0)], most)
        for name, text in texts.items()
    }
    nothing = tokenizer.encode([("", 1.0)])
    rows = list(encoded.values())
    if request.guided and request.negative_prompt_strength != 1:
        rows.append(nothing)
    chunks = max(len(row.ids) for row in rows)
    ids = [np.concatenate([row.ids] + [nothing.ids] * (chunks - len(row.ids))) for row in rows]
    weights = [np.concatenate([row.weights] + [nothing.weights] * (chunks - len(row.weights))) for row in rows]
    return np.stack(ids), np.stack(weights), {name: row.cut for name, row in encoded.items() if row.cut}


def to_network(picture: Pixels) -> Floats:
    """[H, W, 3] uint8 -> [1, 3, H, W] float32 in [-1, 1], in diffusers' arithmetic."""
    scaled = picture.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((2 * scaled - 1).transpose(2, 0, 1)[None])


def to_picture(image: Floats) -> Pixels:
    """[1, 3, H, W] in [-1, 1] -> [H, W, 3] uint8, in diffusers' arithmetic."""
    scaled: Floats = np.clip(image[0] / 2 + np.float32(0.5), 0, 1).transpose(1, 2, 0)
    return np.asarray(np.rint(scaled * 255), np.uint8)


def _pipeline_config(config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The scheduler config after the edits that diffusers' pipelines make to it when they are built.

    All set steps_offset to 1. The inpainting one has PNDM skip its Runge-Kutta warm-up; the other two switch off
    sample clipping (where the file leaves it out, only DDIM and DDPM themselves would clip).
    """
    edited = {**config, "steps_offset": 1}
    if task == "inpaint":
        edited["skip_prk_steps"] = True
    elif config.get("clip_sample", config.get("_class_name") in ("DDIMScheduler", "DDPMScheduler")):
        edited["clip_sample"] = False
    return edited


def _plan(request: Request, bundle: Bundle) -> samplers.Plan:
    strength = request.strength if request.image is not None else 1.0
    try:
        return samplers.plan(
            request.scheduler,
            _pipeline_config(bundle.scheduler.config, request.task),
            request.num_inference_steps,
            strength,
            eta=request.eta,
            timesteps=request.timesteps,
            sigmas=request.sigmas,
            timestep_spacing=request.timestep_spacing,
        )
    except samplers.UnsupportedScheduler as error:
        raise InvalidRequest("scheduler", str(error)) from None
    except samplers.InvalidSteps as error:
        raise InvalidRequest(error.field, error.text) from None
