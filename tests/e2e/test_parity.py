"""The server's pictures against diffusers' pipelines: same weights, same seed, uint8 within 2, mean within 0.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

import bundles
from e2e import wire
from e2e.conftest import Serve
from e2e.pairwise import pairwise
from e2e.proved import proved
from e2e.server import Server

pytestmark = pytest.mark.e2e

PROMPT = "a red balloon over the sea, oil on canvas"
NEGATIVE = "blurry"
SEED = 2**33 + 7  # above 32 bits, as people paste them
SAMPLERS: dict[str, Callable[[Any], Any]] = {
    "ddim": DDIMScheduler.from_config,
    "pndm": PNDMScheduler.from_config,
    "euler": EulerDiscreteScheduler.from_config,
    "euler_ancestral": EulerAncestralDiscreteScheduler.from_config,
    "dpmpp_2m": DPMSolverMultistepScheduler.from_config,
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    "ddpm": DDPMScheduler.from_config,
    "heun": HeunDiscreteScheduler.from_config,
    "dpmpp_2m_sde": lambda config: DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++"),
    "dpmpp_2s": DPMSolverSinglestepScheduler.from_config,
    "unipc": UniPCMultistepScheduler.from_config,
    "lcm": LCMScheduler.from_config,
    "tcd": TCDScheduler.from_config,
}
SPACED: dict[str, Callable[[Any], Any]] = {
    "euler_karras": lambda config: EulerDiscreteScheduler.from_config(config, use_karras_sigmas=True),
    "heun_exponential": lambda config: HeunDiscreteScheduler.from_config(config, use_exponential_sigmas=True),
    "dpmpp_2m_sde_beta": lambda config: DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="sde-dpmsolver++", use_beta_sigmas=True
    ),
    "unipc_sgm_uniform": lambda config: UniPCMultistepScheduler.from_config(config, timestep_spacing="trailing"),
}
# The second pair differs in all that a checkpoint may: widths, VAE factor, text encoder, what the UNet predicts.
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "inpaint": {},
    "inpaint-v": {**bundles.MICRO, "prediction_type": "v_prediction", "openclip": True},
    "plain": {"in_channels": 4},
    "plain-v": bundles.OTHER,
}
TASKS = [  # checkpoint kind, task, strength
    ("inpaint", "inpaint", 1.0),
    ("inpaint", "inpaint", 0.6),
    ("plain", "inpaint", 1.0),
    ("plain", "inpaint", 0.6),
    ("plain", "image_to_image", 0.6),
    ("plain", "text_to_image", None),
]
AXES = (TASKS, ["", "-v"], list(SAMPLERS), [1.0, 7.5])  # the second: prediction, as in the names of CHECKPOINTS
DAILY = pairwise(*AXES)


@pytest.fixture(scope="module")
def parity_server(serve: Serve, gesso_bundles: Path) -> Iterator[Server]:
    """One Triton with the four bundles."""
    made = {name: bundles.export(gesso_bundles, **options)[1] for name, options in CHECKPOINTS.items()}
    with serve(made.pop("inpaint"), names=made) as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def quiet_diffusers() -> None:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("case", DAILY, ids=str)
def test_every_sampler_paints_what_diffusers_paints(parity_server: Server, gesso_bundles: Path, case: Any) -> None:
    """Guards against a coefficient, a draw of noise or a timestep that differs from diffusers in any sampler."""
    (kind, task, strength), prediction, scheduler, guidance_scale = case
    check(parity_server, gesso_bundles, kind + prediction, task, strength, scheduler, guidance_scale, 6, (16, 16))


@pytest.mark.slow
@pytest.mark.parametrize("case", list(product(*AXES)), ids=str)
def test_whatever_meets_it_paints_what_diffusers_paints(parity_server: Server, gesso_bundles: Path, case: Any) -> None:
    """Guards the same where three or four values have to meet for it to show."""
    test_every_sampler_paints_what_diffusers_paints(parity_server, gesso_bundles, case)


@pytest.mark.parametrize("scheduler", SPACED)
@pytest.mark.parametrize(("kind", "task", "strength"), TASKS[::3])
def test_spaced_samplers_paint_what_diffusers_paints(
    parity_server: Server, gesso_bundles: Path, kind: str, task: str, strength: float | None, scheduler: str
) -> None:
    """Guards the names with a spacing; every one of them is held against its class in tests/backend/test_samplers."""
    check(parity_server, gesso_bundles, kind, task, strength, scheduler, 7.5, 6, (16, 16))


OPTIONS: list[tuple[str, str, float | None, dict[str, Any]]] = [  # scheduler, task, strength, the request's own
    ("ddim", "inpaint", 0.6, {"eta": 0.4}),
    ("tcd", "text_to_image", None, {"eta": 0.3}),
    ("euler", "text_to_image", None, {"timesteps": [951, 700, 333, 20]}),
    ("dpmpp_2m", "text_to_image", None, {"timesteps": [951, 700, 333, 20]}),
    ("euler", "text_to_image", None, {"sigmas": [14.5, 3.25, 0.5, 0.0]}),
    ("pndm", "text_to_image", None, {"guidance_rescale": 0.7}),
]


@pytest.mark.parametrize(("scheduler", "task", "strength", "options"), OPTIONS)
def test_the_schedules_options_are_those_of_diffusers(
    parity_server: Server,
    gesso_bundles: Path,
    scheduler: str,
    task: str,
    strength: float | None,
    options: dict[str, Any],
) -> None:
    """Guards what a request may say of its steps, and guidance_rescale, on the way from the wire into the table."""
    check(parity_server, gesso_bundles, "plain", task, strength, scheduler, 7.5, 6, (16, 16), **options)


LONG = "a red balloon over the sea at dusk, oil on canvas, by an old master, with a golden frame, " * 6


def test_a_long_prompt_is_what_diffusers_paints_from_joined_chunks(parity_server: Server, gesso_bundles: Path) -> None:
    """Guards the chunks of a long prompt, encoded one by one by diffusers' own text encoder."""
    check(parity_server, gesso_bundles, "plain", "text_to_image", None, "ddim", 7.5, 4, (16, 16), prompt=LONG)


def test_clip_skip_is_that_of_diffusers(parity_server: Server, gesso_bundles: Path) -> None:
    """Guards which layer is meant, and the final norm after it."""
    check(parity_server, gesso_bundles, "plain", "text_to_image", None, "ddim", 7.5, 4, (16, 16), clip_skip=1)


@pytest.mark.parametrize("scheduler", ["pndm", "euler_ancestral"])
@pytest.mark.parametrize(("kind", "task", "strength"), TASKS)
def test_oblong_pictures_are_what_diffusers_paints(
    parity_server: Server, gesso_bundles: Path, kind: str, task: str, strength: float | None, scheduler: str
) -> None:
    """Guards against height and width exchanged anywhere, and against shapes frozen into a graph."""
    check(parity_server, gesso_bundles, f"{kind}-v", task, strength, scheduler, 7.5, 3, (32, 48))


@pytest.mark.parametrize("latents", [(17, 33), (7, 9)])
def test_latents_that_no_power_of_two_divides(
    parity_server: Server, gesso_bundles: Path, latents: tuple[int, int]
) -> None:
    """Guards against a UNet whose upsampling cannot meet its skip connections at odd sizes."""
    check(parity_server, gesso_bundles, "inpaint", "inpaint", 1.0, "euler", 7.5, 4, latents)


@pytest.mark.parametrize("steps", [1, 2, 25])
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_few_and_many_steps(parity_server: Server, gesso_bundles: Path, scheduler: str, steps: int) -> None:
    """Guards against warm-ups and final steps that only go wrong at small or large counts."""
    check(parity_server, gesso_bundles, "plain", "text_to_image", None, scheduler, 5.0, steps, (16, 16))


def check(
    server: Server,
    root: Path,
    name: str,
    task: str,
    strength: float | None,
    scheduler: str,
    guidance_scale: float,
    steps: int,
    latents: tuple[int, int],
    **options: Any,
) -> None:
    factor = 2 ** (len(CHECKPOINTS[name].get("vae_channels", (0,) * 4)) - 1)
    height, width = factor * latents[0], factor * latents[1]
    image, mask = picture(height, width), blob(height, width)
    request: dict[str, Any] = {"guidance_scale": guidance_scale, "scheduler": scheduler, **options}
    if not {"timesteps", "sigmas"} & options.keys():
        request["num_inference_steps"] = steps
    extra: dict[str, Any] = {"image": image, "strength": strength}
    if task == "text_to_image":
        extra = {"height": height, "width": width}
    if task == "inpaint":
        extra |= {"mask_image": mask, "latent_blend": False, "padding_mask_crop": -1}
    inputs = wire.tensors(**{"prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": SEED, **request, **extra})
    model = "inpaint_once" if name == "inpaint" else f"{name}_once"
    ours = wire.infer_grpc(server.grpc, inputs, model).image

    theirs = paint(root, name, task, scheduler, height, width, image, mask, strength, steps, guidance_scale, **options)
    painted = mask > 0 if task == "inpaint" else np.full((height, width), True)
    difference = np.abs(ours.astype(int) - theirs.astype(int))[painted]
    assert difference.max() <= 2
    assert difference.mean() < 0.1
    assert ours[painted].std() > 5, "a flat picture would prove nothing"
    if task == "inpaint":
        assert (ours[~painted] == image[~painted]).all()
    proved(f"sd-{name.removesuffix('-v')}", task, scheduler)


def paint(
    root: Path,
    name: str,
    task: str,
    scheduler: str,
    height: int,
    width: int,
    image: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any],
    strength: float | None,
    steps: int,
    guidance_scale: float,
    **options: Any,
) -> np.ndarray[Any, Any]:
    """The same job by diffusers."""
    pipeline, config = load(bundles.checkpoint(root, **CHECKPOINTS[name]), task)
    pipeline.scheduler = {**SAMPLERS, **SPACED}[scheduler](config)
    arguments: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance_scale, **options}
    if task != "image_to_image":
        arguments |= {"height": height, "width": width}
    if task != "text_to_image":
        arguments |= {"image": Image.fromarray(image), "strength": strength}
    if task == "inpaint":
        arguments |= {"mask_image": Image.fromarray(mask)}
    generator = torch.Generator("cpu").manual_seed(SEED)
    prompt, clip_skip = arguments.pop("prompt", None), arguments.pop("clip_skip", 0)
    if clip_skip:  # what the pipeline does with it; with transformers 5 it fails to
        prompt = PROMPT
    if prompt is None:
        texts: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    else:
        texts = {
            "prompt_embeds": chunks(pipeline, prompt, prompt, clip_skip),
            "negative_prompt_embeds": chunks(pipeline, NEGATIVE, prompt, clip_skip),
        }
    return np.asarray(pipeline(**texts, generator=generator, **arguments).images[0])


def chunks(pipeline: Any, prompt: str, longest: str, clip_skip: int) -> torch.Tensor:
    """The embeddings of a prompt in as many chunks of 75 tokens as `longest` has, each a prompt of its own."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    size = len(tokenizer(longest, add_special_tokens=False, verbose=False).input_ids)
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    embedded = []
    for start in range(0, size, 75):
        words = [tokenizer.bos_token_id, *ids[start : start + 75], tokenizer.eos_token_id]
        words += [tokenizer.pad_token_id] * (77 - len(words))
        with torch.no_grad():
            hidden = encoder(torch.tensor([words]), output_hidden_states=True).hidden_states
            embedded.append(encoder.final_layer_norm(hidden[-1 - clip_skip]))
    return torch.cat(embedded, 1)


@cache
def load(checkpoint: Path, task: str) -> tuple[Any, Any]:
    """(pipeline, the scheduler config it came with)."""
    kinds = {
        "inpaint": StableDiffusionInpaintPipeline,
        "image_to_image": StableDiffusionImg2ImgPipeline,
        "text_to_image": StableDiffusionPipeline,
    }
    pipeline = kinds[task].from_pretrained(checkpoint, local_files_only=True)
    return pipeline, pipeline.scheduler.config


def picture(height: int, width: int) -> np.ndarray[Any, Any]:
    """A smooth picture with some texture, uint8 [H, W, 3]."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    texture = rng.integers(-20, 20, (height, width, 3))
    return np.clip(np.asarray(coarse).astype(int) + texture, 0, 255).astype(np.uint8)


def blob(height: int, width: int) -> np.ndarray[Any, Any]:
    """An ellipse off the latent grid."""
    y, x = np.mgrid[0:height, 0:width]
    inside = ((y - 0.55 * height) / (0.31 * height)) ** 2 + ((x - 0.45 * width) / (0.37 * width)) ** 2 < 1
    return np.where(inside, 255, 0).astype(np.uint8)
