"""The same step painted by diffusers' own pipeline, from the checkpoint's own files: no reading of ours takes part.

Text encoders and the rest are in memory one after the other, in float32, and gone when the step is done.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from gesso_export.bundle.tensor import HEIGHT, WIDTH
from gesso_export.errors import VerificationError, first_line
from gesso_export.progress import quiet
from gesso_export.proof import sketch
from gesso_export.proof.opening import FLOW, PAINTERS, TEXT, CannotOpen
from gesso_export.proof.sketch import Painted

# By the family, and by whether the denoiser was trained on masks. A pipeline that does not fit its denoiser says so.
CLASSES = {
    ("stable-diffusion", False): "StableDiffusionImg2ImgPipeline",
    ("stable-diffusion", True): "StableDiffusionInpaintPipeline",
    ("stable-diffusion-xl", False): "StableDiffusionXLImg2ImgPipeline",
    ("stable-diffusion-xl", True): "StableDiffusionXLInpaintPipeline",
    ("flux", False): "FluxImg2ImgPipeline",
    ("flux", True): "FluxFillPipeline",
}
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")

Open = Callable[..., Any]  # of the components to leave out, as None: a pipeline of the others


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """The hub's client refuses whatever it is asked for; not all that asks it minds `local_files_only`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def paint(open_pipeline: Open, class_name: str, guidance_scale: float, max_sequence_length: int) -> Painted:
    """What diffusers makes of the sketch. Raises CannotOpen, or VerificationError when the pipeline cannot be run.

    max_sequence_length: tokens of the longer text encoder, of families that have two kinds.
    """
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    flow = class_name.startswith(FLOW)
    with quiet(), _offline(), torch.inference_mode():  # importing a pipeline is not quiet either
        unused: dict[str, Any] = dict.fromkeys(_accepted(class_name, _UNUSED))
        if "safety_checker" in unused:
            unused["requires_safety_checker"] = False
        texts, painters = _accepted(class_name, TEXT), _accepted(class_name, PAINTERS)
        pipeline = _opened(open_pipeline, dict.fromkeys(painters) | unused)
        _check_tokenizers(pipeline)
        try:
            prompt = _prompt(pipeline, flow, guidance_scale, max_sequence_length)
        except Exception as error:
            raise _cannot_run(error) from error
        del pipeline
        gc.collect()
        pipeline = _opened(open_pipeline, dict.fromkeys(texts) | unused)
        seen: dict[str, Any] = {}
        step: dict[str, Any] = {"sigmas": [sketch.STEP]}
        if not flow:
            config = pipeline.scheduler.config
            # The step of any sampler, as far as the noise goes: to what the model takes the picture without noise for.
            pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(
                config,
                timestep_spacing="leading",
                interpolation_type="linear",
                timestep_type="discrete",
                final_sigmas_type="zero",
                **{f"use_{spacing}_sigmas": False for spacing in ("karras", "exponential", "beta")},
            )
            step = {"timesteps": [int(sketch.STEP * config.num_train_timesteps)]}
        given = {"mask_image": torch.from_numpy(sketch.mask()), HEIGHT: sketch.HEIGHT, WIDTH: sketch.WIDTH}
        step |= {name: value for name, value in given.items() if name in _parameters(pipeline)}
        try:
            picture = pipeline(
                **{name: value for name, value in prompt.items() if value is not None},
                image=torch.from_numpy(sketch.image()),
                strength=1.0,
                num_inference_steps=1,
                guidance_scale=guidance_scale,
                generator=torch.Generator().manual_seed(sketch.SEED),
                output_type="np",
                callback_on_step_end=lambda _, __, ___, tensors: seen.update(tensors) or tensors,
                **step,
            ).images[0]
        except Exception as error:
            raise _cannot_run(error) from error
    arrays = {name: value.numpy() for name, value in prompt.items() if value is not None}
    return Painted(arrays, seen["latents"].numpy(), np.asarray(picture))


def _check_tokenizers(pipeline: Any) -> None:
    """Raises VerificationError for one without its vocabulary, which reads every prompt alike on either side."""
    for name, tokenizer in pipeline.components.items():
        if name.startswith("tokenizer") and tokenizer is not None:
            rows = len(getattr(pipeline, name.replace("tokenizer", "text_encoder")).get_input_embeddings().weight)
            if not rows / 2 <= len(tokenizer) <= rows:
                raise VerificationError(
                    f"{name}: has {len(tokenizer)} tokens, its text encoder {rows}: a file of it is missing or foreign"
                )


def _prompt(pipeline: Any, flow: bool, guidance_scale: float, max_sequence_length: int) -> dict[str, Any]:
    if flow:
        embeds, pooled, _ = pipeline.encode_prompt(
            sketch.PROMPT, None, device="cpu", max_sequence_length=max_sequence_length
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    answers = pipeline.encode_prompt(
        sketch.PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=guidance_scale > 1
    )
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    return dict(zip(names, answers, strict=False))


def _opened(open_pipeline: Open, left_out: dict[str, Any]) -> Any:
    try:
        pipeline = open_pipeline(**left_out)
    except CannotOpen:
        raise
    except Exception as error:  # diffusers' and transformers' own errors have no common base
        raise CannotOpen(first_line(error)) from error
    pipeline.set_progress_bar_config(disable=True)
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            for parameter, tensor in component.named_parameters():
                if tensor.is_meta:
                    raise CannotOpen(f"it finds no {name}.{parameter} in the file")
            component.float()  # its single-file loader leaves some of FLUX.1 in the file's precision
    return pipeline


def _cannot_run(error: Exception) -> VerificationError:
    return VerificationError(f"diffusers' pipeline cannot paint with this checkpoint: {first_line(error)}")


def _accepted(class_name: str, names: tuple[str, ...]) -> list[str]:
    import inspect

    import diffusers

    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    return [name for name in names if name in parameters]


def _parameters(pipeline: Any) -> Any:
    import inspect

    return inspect.signature(pipeline.__call__).parameters
