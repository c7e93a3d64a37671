"""The life of one picture, as generators that ask for network calls and never run one.

`encode` and `sample` yield a `Call` whenever they need a network and are sent its outputs; they yield `Progress` and
`Preview` in between. Whoever drives them decides which engine runs a call and what else shares the batch, so the same
code serves alone, in a batch and in tests. All state of a request is in its generators: nothing to reset or to leak.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np

from gesso_backend.arrays import Arrays, Floats, Pixels
from gesso_backend.call import Call
from gesso_backend.errors import InternalError
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle, PreviewSpec
from gesso_backend.kinds.diffusion.families import Family
from gesso_backend.kinds.diffusion.noise import NoiseStream
from gesso_backend.kinds.diffusion.prepared import Prepared
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.samplers import advance, estimate_x0
from gesso_backend.kinds.kind import Preview, Progress
from gesso_backend.pixels.pixels import to_picture


@dataclass(frozen=True)
class Conditions:
    """What the networks said of the prompt and the picture; shared by the images of a request."""

    inputs: Mapping[str, Floats]  # of the denoiser, the same at every step; first axis rows
    image: Floats | None  # VAE moments of the picture [1, 2c, h, w]
    masked_image: Floats | None  # VAE moments of the picture with the repainted part greyed out


def encode(
    prepared: Prepared, bundle: DiffusionBundle, family: Family
) -> Generator[Call | Progress | Preview, Arrays, Conditions]:
    """Run the text encoder and the VAE encoder, as far as this request needs them."""
    request = prepared.request
    size = (prepared.canvas.work_height, prepared.canvas.work_width)
    inputs = yield from family.condition(request, bundle, prepared.texts, size)
    image = masked_image = None
    if prepared.pixels is not None and (
        not _from_noise(request) or request.latent_blend or not bundle.native_inpainting
    ):
        outputs = yield Call("vae_encoder", {"sample": prepared.pixels}, prepared.content + b" whole")
        image = outputs["moments"]
    if prepared.repaint is not None and bundle.native_inpainting:
        pixels = np.zeros((1, 3, 1, 1), np.float32) if prepared.pixels is None else prepared.pixels
        outputs = yield Call("vae_encoder", {"sample": pixels * (1 - prepared.repaint)}, prepared.content + b" masked")
        masked_image = outputs["moments"]
    for array in inputs.values():
        array.setflags(write=False)  # the same at every step: an engine may keep it on the device
    return Conditions(inputs, image, masked_image)


def sample(
    prepared: Prepared, conditions: Conditions, bundle: DiffusionBundle, family: Family, index: int
) -> Generator[Call | Progress | Preview, Arrays, Pixels]:
    """Denoise and decode image `index` of a request; returns the canvas [8h, 8w, 3].

    Noise is drawn in the order of diffusers' pipelines, so that a seed means the same picture.
    Raises InternalError when a network answers NaN or infinity.
    """
    request, table, mask = prepared.request, prepared.table, prepared.latent_mask
    noise_stream = NoiseStream(prepared.seed_of(index))
    shape = (1, bundle.vae.latent_channels, *prepared.latent_shape)

    from_noise = _from_noise(request)
    drawn = prepared.pixels is not None and family.draws_picture(from_noise, bundle.native_inpainting)
    image_latents = None
    if conditions.image is not None:
        image_latents = _latents(conditions.image, noise_stream if drawn else None, bundle)
    elif drawn:
        noise_stream.normal(shape)
    noise = noise_stream.normal(shape)
    if from_noise:
        x = noise * np.float32(table.init_noise_sigma)
    else:
        assert image_latents is not None
        x = _mix(table.start, image_latents, noise)
    extra_channels: list[Floats] = []
    if conditions.masked_image is not None and mask is not None:
        assert prepared.repaint is not None
        masked_image = _latents(conditions.masked_image, noise_stream, bundle)
        extra_channels = family.mask_channels(mask, prepared.repaint, masked_image)
    elif mask is not None:
        noise_stream.normal(shape)  # diffusers encodes the masked picture here, for nothing but this draw
    blend = request.task == "inpaint" and (request.latent_blend or not bundle.native_inpainting)

    rows = prepared.rows
    samples: deque[Floats] = deque([x], maxlen=table.history[0])
    predictions: deque[Floats] = deque(maxlen=table.history[1])
    for number, step in enumerate(table.steps, start=1):
        scaled = x * np.float32(step.input_scale)
        row = np.concatenate([scaled, *extra_channels], axis=1) if extra_channels else scaled
        outputs = yield Call(
            bundle.denoiser,
            {
                "sample": np.repeat(row, rows, axis=0),
                "timestep": np.full(rows, step.timestep, np.float32),
                **conditions.inputs,
            },
            step=True,
        )
        predictions.appendleft(_guide(outputs["noise_pred"], family.guidance(request), request.guidance_rescale))
        preview_due = request.preview_every and number % request.preview_every == 0 and number < len(table.steps)
        x0 = estimate_x0(step, x, predictions[0]) if preview_due else None
        x = advance(step, samples, predictions, None if step.noise is None else noise_stream.normal(shape))
        if blend:
            assert image_latents is not None
            assert mask is not None
            x = (1 - mask) * _mix(step.renoise, image_latents, noise) + mask * x
        samples.appendleft(x)
        if not np.isfinite(x).all():
            raise InternalError(f"the {bundle.denoiser} gave NaN or infinity at step {number}")
        yield Progress(number, len(table.steps), index)
        if x0 is not None:
            yield Preview(number, len(table.steps), index, preview_rgb(x0, bundle.preview_rgb))

    vae = bundle.vae
    outputs = yield Call("vae_decoder", {"latents": x / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor)})
    if not np.isfinite(outputs["image"]).all():
        raise InternalError("the VAE decoder gave NaN or infinity")
    return to_picture(outputs["image"])


def preview_rgb(latents: Floats, spec: PreviewSpec) -> Pixels:
    """Scaled latents [1, c, h, w] as a small picture [h, w, 3], by the bundle's fitted linear map."""
    matrix, bias = np.array(spec.matrix, np.float32), np.array(spec.bias, np.float32)
    return to_picture(np.einsum("nchw,cr->nrhw", latents, matrix) + bias[:, None, None])


def _from_noise(request: Request) -> bool:
    """Whether denoising starts from pure noise; else from the noised picture. As in diffusers' pipelines."""
    return request.task == "text_to_image" or (request.task == "inpaint" and request.strength == 1)


def _guide(prediction: Floats, scale: float, rescale: float) -> Floats:
    """Classifier-free guidance (Ho and Salimans, arXiv:2207.12598) over rows [unconditional, conditional].

    `rescale` is how far its spread is brought back to the conditional one's: section 3.4 of arXiv:2305.08891.
    """
    if len(prediction) == 1:
        return prediction
    unconditional, conditional = prediction[:1], prediction[1:]
    guided = unconditional + np.float32(scale) * (conditional - unconditional)
    if not rescale:
        return guided
    spread = conditional.std(ddof=1, dtype=np.float32) / guided.std(ddof=1, dtype=np.float32)
    rescaled: Floats = np.float32(rescale) * spread * guided + np.float32(1 - rescale) * guided
    return rescaled


def _latents(moments: Floats, noise_stream: NoiseStream | None, bundle: DiffusionBundle) -> Floats:
    """Scaled latents from VAE moments: a draw of the posterior, or its mean without a noise stream."""
    mean, logvar = np.split(moments, 2, axis=1)
    if noise_stream is not None:
        mean = mean + np.exp(0.5 * np.clip(logvar, -30, 20)) * noise_stream.normal(mean.shape)
    return (mean - np.float32(bundle.vae.shift_factor)) * np.float32(bundle.vae.scaling_factor)


def _mix(level: tuple[float, float], clean: Floats, noise: Floats) -> Floats:
    """signal * clean + sigma * noise."""
    return np.float32(level[0]) * clean + np.float32(level[1]) * noise
