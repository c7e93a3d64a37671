"""SDXL and FLUX through the real server against diffusers' pipelines: the bar of test_parity, and untouched pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

import bundles
from e2e import wire
from e2e.conftest import Serve
from e2e.proved import proved
from e2e.server import Server
from e2e.test_parity import NEGATIVE, PROMPT, SEED, blob, picture

pytestmark = pytest.mark.e2e

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "sdxl-inpaint": {"preset": "sdxl-tiny", "in_channels": 9},
    "sdxl": {"preset": "sdxl-tiny", "in_channels": 4},
    # Two levels in place of three: what is Turbo's own is its schedule.
    "turbo": {
        "preset": "sdxl-tiny",
        "in_channels": 4,
        "turbo": True,
        "unet_channels": [16, 32],
        "unet_heads": [2, 4],
        "unet_depths": [1, 2],
    },
    "flux-fill": {"preset": "flux-tiny", "variant": "fill"},
    "flux-dev": {"preset": "flux-tiny", "variant": "dev"},
    "flux-schnell": {"preset": "flux-tiny", "variant": "schnell"},
}
PIPELINES = {
    ("sdxl", "text_to_image"): StableDiffusionXLPipeline,
    ("sdxl", "image_to_image"): StableDiffusionXLImg2ImgPipeline,
    ("sdxl", "inpaint"): StableDiffusionXLInpaintPipeline,
    ("flux", "text_to_image"): FluxPipeline,
    ("flux", "image_to_image"): FluxImg2ImgPipeline,
    ("flux", "inpaint"): FluxInpaintPipeline,
    ("flux-fill", "inpaint"): FluxFillPipeline,
}
SAMPLERS: dict[str, Callable[[Any], Any]] = {
    "ddim": DDIMScheduler.from_config,
    "euler": EulerDiscreteScheduler.from_config,
    "euler_ancestral": EulerAncestralDiscreteScheduler.from_config,
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    "flow_euler": FlowMatchEulerDiscreteScheduler.from_config,
    "flow_euler_karras": lambda config: FlowMatchEulerDiscreteScheduler.from_config(config, use_karras_sigmas=True),
    "flow_euler_beta": lambda config: FlowMatchEulerDiscreteScheduler.from_config(config, use_beta_sigmas=True),
}
SDXL_TASKS = [  # model, task, strength
    ("sdxl-inpaint", "inpaint", 1.0),
    ("sdxl-inpaint", "inpaint", 0.6),
    ("sdxl", "inpaint", 1.0),
    ("sdxl", "inpaint", 0.6),
    ("sdxl", "image_to_image", 0.6),
    ("sdxl", "text_to_image", None),
]
FLUX_TASKS = [
    ("flux-fill", "inpaint", 1.0),
    ("flux-fill", "inpaint", 0.65),
    ("flux-dev", "inpaint", 1.0),
    ("flux-dev", "inpaint", 0.65),
    ("flux-dev", "image_to_image", 0.65),
    ("flux-dev", "text_to_image", None),
    ("flux-schnell", "inpaint", 0.65),
    ("flux-schnell", "image_to_image", 0.65),
    ("flux-schnell", "text_to_image", None),
]
SHORT = {"max_sequence_length": 24}  # T5's, where its length is not the point


@pytest.fixture(scope="module")
def families(serve: Serve, gesso_bundles: Path) -> Iterator[Server]:
    """One Triton with all six."""
    made = {name: bundles.export(gesso_bundles, **options)[1] for name, options in CHECKPOINTS.items()}
    with serve(None, names=made) as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def quiet_diffusers() -> None:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize(
    ("scheduler", "guidance_scale"),
    [("ddim", 5.0), ("euler", 1.0), ("euler", 5.0), ("euler_ancestral", 5.0), ("dpmpp_2m_karras", 5.0)],
)
@pytest.mark.parametrize(("model", "task", "strength"), SDXL_TASKS)
def test_sdxl_paints_what_diffusers_paints(
    families: Server,
    gesso_bundles: Path,
    model: str,
    task: str,
    strength: float | None,
    scheduler: str,
    guidance_scale: float,
) -> None:
    """Guards both text encoders' layers, the pooled text, the sizes it is told, and the draws of noise."""
    options = {"scheduler": scheduler, "guidance_scale": guidance_scale, "negative_prompt": NEGATIVE}
    check(families, gesso_bundles, model, task, strength, (128, 128), num_inference_steps=5, **options)


SDXL_OPTIONS: dict[str, dict[str, Any]] = {
    "no negative prompt is zeros": {},
    "second prompts": {"negative_prompt": NEGATIVE, "prompt_2": "a green boat", "negative_prompt_2": "a car"},
    "an original size": {"original_size": [512, 300], "target_size": [200, 260]},
    "crops": {"crops_coords_top_left": [64, 32]},
    "guidance_rescale": {"guidance_rescale": 0.7, "negative_prompt": NEGATIVE},
    "own timesteps": {"timesteps": [900, 512, 33], "negative_prompt": NEGATIVE},
}


@pytest.mark.parametrize("case", SDXL_OPTIONS)
def test_sdxl_takes_what_its_pipeline_takes(families: Server, gesso_bundles: Path, case: str) -> None:
    """Guards the options of SDXL alone, on a picture whose sides differ and are no power of two."""
    options = {"scheduler": "euler", "guidance_scale": 5.0, **SDXL_OPTIONS[case]}
    if "timesteps" not in options:
        options["num_inference_steps"] = 4
    check(families, gesso_bundles, "sdxl", "text_to_image", None, (136, 88), **options)


def test_the_negative_sizes_are_the_negative_rows(families: Server, gesso_bundles: Path) -> None:
    """Guards which row is told which size; diffusers reads these three only together."""
    sizes = {
        "negative_original_size": [64, 48],
        "negative_crops_coords_top_left": [16, 8],
        "negative_target_size": [300, 200],
    }
    options = {"scheduler": "ddim", "guidance_scale": 5.0, "num_inference_steps": 4, **sizes}
    check(families, gesso_bundles, "sdxl", "text_to_image", None, (64, 96), **options)


@pytest.mark.parametrize(("task", "strength", "steps"), [("text_to_image", None, 1), ("text_to_image", None, 4),
                                                         ("image_to_image", 0.5, 2), ("inpaint", 0.5, 4)])  # fmt: skip
def test_turbo_needs_one_step_and_no_guidance(
    families: Server, gesso_bundles: Path, task: str, strength: float | None, steps: int
) -> None:
    """Guards a single trailing step, and its defaults: nothing is said of guidance or of the sampler."""
    said = {"num_inference_steps": steps, "scheduler": "euler_ancestral"}
    check(families, gesso_bundles, "turbo", task, strength, (64, 64), theirs={"guidance_scale": 0.0}, **said)


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_euler_karras", "flow_euler_beta"])
@pytest.mark.parametrize(("model", "task", "strength"), FLUX_TASKS)
def test_flux_paints_what_diffusers_paints(
    families: Server, gesso_bundles: Path, model: str, task: str, strength: float | None, scheduler: str
) -> None:
    """Guards packing (the picture is not square), the shift by its size, guidance, and Fill's mask channels."""
    guidance = {} if model == "flux-schnell" else {"guidance_scale": 4.0}
    options = {"scheduler": scheduler, "num_inference_steps": 5, **guidance, **SHORT}
    check(families, gesso_bundles, model, task, strength, (64, 112), **options)


@pytest.mark.parametrize("task", ["text_to_image", "image_to_image", "inpaint"])
def test_flux_with_true_guidance(families: Server, gesso_bundles: Path, task: str) -> None:
    """Guards the second row: a negative prompt with guidance of its own beside the distilled one."""
    strength = None if task == "text_to_image" else 0.7
    said = {"true_cfg_scale": 3.0, "negative_prompt": NEGATIVE, "prompt_2": "a green boat", "guidance_scale": 2.0}
    options = {"scheduler": "flow_euler", "num_inference_steps": 4, **said, **SHORT}
    check(families, gesso_bundles, "flux-dev", task, strength, (96, 64), **options)


def test_flux_reads_512_tokens_with_their_padding(families: Server, gesso_bundles: Path) -> None:
    """Guards T5's length and padding, which the transformer attends to."""
    options = {"scheduler": "flow_euler", "num_inference_steps": 2, "guidance_scale": 3.5}
    check(families, gesso_bundles, "flux-dev", "text_to_image", None, (32, 32), **options)


@pytest.mark.parametrize("model", ["sdxl-inpaint", "flux-fill"])
def test_only_the_masked_part_is_worked_on_and_the_rest_untouched(
    families: Server, gesso_bundles: Path, model: str
) -> None:
    """Guards the crop, which diffusers lacks for Fill: what is painted is what it paints of the cut-out alone."""
    image, mask = picture(200, 300), np.zeros((200, 300), np.uint8)
    mask[60:100, 150:200] = 255
    scheduler = "euler" if model == "sdxl-inpaint" else "flow_euler"
    options = {"scheduler": scheduler, "num_inference_steps": 3, "guidance_scale": 1.0}
    options |= {} if model == "sdxl-inpaint" else SHORT
    extra = {"image": image, "mask_image": mask, "strength": 1.0, "padding_mask_crop": 20, "latent_blend": False}
    result = ask(families, model, **options, **extra)
    assert (result.image[mask == 0] == image[mask == 0]).all()
    top, left, height, width = result.report["crop"]
    assert result.report["working_size"] == [height, width]
    assert height < 200
    assert width < 300
    part = np.s_[top : top + height, left : left + width]
    theirs = paint(gesso_bundles, model, "inpaint", (height, width), image[part], mask[part], 1.0, **options)
    compare(result.image[part], theirs, mask[part] > 0)


@pytest.mark.parametrize(
    ("model", "schedulers"),
    [
        ("sdxl", ["ddim", "euler", "dpmpp_2m_karras", "heun"]),
        ("flux-dev", ["flow_euler", "flow_euler_beta", "flow_heun"]),
    ],
)
def test_a_batch_of_mixed_samplers_paints_each_as_alone(families: Server, model: str, schedulers: list[str]) -> None:
    """Guards the rows of a batch against each other: sampler, steps, guidance, sizes told and prompt all differ."""
    requests: list[dict[str, Any]] = [
        {"scheduler": name, "num_inference_steps": 80 + i, "guidance_scale": 2.0 + i, "prompt": f"{PROMPT} {i}",
         "height": 64, "width": 64, **(SHORT if model == "flux-dev" else {"original_size": [64 + i, 99]})}
        for i, name in enumerate(schedulers)
    ]  # fmt: skip
    alone = [ask(families, model, **request).image for request in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: ask(families, model, **request), requests))
    for one, result in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, result.image)
    assert max(result.report["rows_per_step"] for result in together) > 2


@pytest.mark.parametrize(
    ("model", "said", "refusal"),
    [
        ("flux-dev", {"negative_prompt": "a car"}, "negative_prompt: needs a true_cfg_scale above 1"),
        ("flux-schnell", {"guidance_scale": 3.5}, "guidance_scale: this model does not take it"),
        ("flux-dev", {"clip_skip": 1}, "clip_skip: this model does not take it"),
        ("flux-dev", {"scheduler": "euler"}, "scheduler: 'euler' is not one of flow_euler, "),
        ("flux-dev", {"height": 40, "width": 32}, "height: 40 is not a multiple of 16"),
        ("sdxl", {"true_cfg_scale": 3.0}, "true_cfg_scale: this model does not take it"),
        ("sdxl", {"original_size": [64]}, "original_size: expected 2 numbers"),
        ("sdxl", {"scheduler": "flow_euler"}, "scheduler: 'flow_euler' is not one of ddim, "),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_name(
    families: Server, model: str, said: dict[str, Any], refusal: str
) -> None:
    """Guards against options that are dropped in silence."""
    with pytest.raises(wire.Refused, match=re.escape(refusal)):
        ask(families, model, **said)


@pytest.mark.parametrize(("model", "native"), [("sdxl-inpaint", True), ("flux-fill", True), ("sdxl", False),
                                               ("flux-dev", False), ("turbo", False)])  # fmt: skip
def test_a_request_may_insist_on_native_inpainting(families: Server, model: str, native: bool) -> None:
    """Guards what models() says, and the request that relies on it."""
    said = {"image": picture(64, 64), "mask_image": blob(64, 64), "require_native": True, "num_inference_steps": 2}
    if native:
        assert ask(families, model, **said).image.shape == (64, 64, 3)
    else:
        with pytest.raises(wire.Refused, match="require_native: not an inpainting model"):
            ask(families, model, **said)


# The two sides


def check(
    server: Server,
    root: Path,
    model: str,
    task: str,
    strength: float | None,
    size: tuple[int, int],
    theirs: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Paint with both and compare; options: said to both; theirs: what diffusers has to be told besides."""
    image, mask = picture(*size), blob(*size)
    extra: dict[str, Any] = {"image": image, "strength": strength}
    if task == "text_to_image":
        extra = {"height": size[0], "width": size[1]}
    if task == "inpaint":
        extra |= {"mask_image": mask, "latent_blend": False, "padding_mask_crop": -1}
    ours = ask(server, model, **options, **extra).image
    expected = paint(root, model, task, size, image, mask, strength, **options, **(theirs or {}))
    painted = mask > 0 if task == "inpaint" else np.full(size, True)
    compare(ours, expected, painted)
    if task == "inpaint":
        assert (ours[~painted] == image[~painted]).all()
    proved(model, task, options["scheduler"])


def compare(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], painted: np.ndarray[Any, Any]) -> None:
    difference = np.abs(ours.astype(int) - theirs.astype(int))[painted]
    assert difference.max() <= 2
    assert difference.mean() < 0.1
    assert ours[painted].std() > 5, "a flat picture would prove nothing"


def ask(server: Server, model: str, **said: Any) -> Any:
    return wire.infer_grpc(server.grpc, wire.tensors(**{"prompt": PROMPT, "seed": SEED, **said}), f"{model}_once")


def paint(
    root: Path,
    model: str,
    task: str,
    size: tuple[int, int],
    image: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any],
    strength: float | None,
    **options: Any,
) -> np.ndarray[Any, Any]:
    """The same job by diffusers."""
    family = model if model == "flux-fill" else "flux" if model.startswith("flux") else "sdxl"
    pipeline, config = load(bundles.checkpoint(root, **CHECKPOINTS[model]), PIPELINES[family, task])
    arguments = {"prompt": PROMPT, **options}
    pipeline.scheduler = SAMPLERS[arguments.pop("scheduler")](config)
    if task != "image_to_image" or family == "flux":
        arguments |= {"height": size[0], "width": size[1]}
    if task != "text_to_image":
        arguments |= {"image": Image.fromarray(image), "strength": strength}
    if task == "inpaint":
        arguments |= {"mask_image": Image.fromarray(mask)}
    for name in ("original_size", "crops_coords_top_left", "target_size"):
        for key in (name, f"negative_{name}"):
            if key in arguments:
                arguments[key] = tuple(arguments[key])
    generator = torch.Generator("cpu").manual_seed(SEED)
    return np.asarray(pipeline(generator=generator, **arguments).images[0])


@cache
def load(checkpoint: Path, kind: Any) -> tuple[Any, Any]:
    """(pipeline, the scheduler config it came with)."""
    pipeline = kind.from_pretrained(checkpoint, local_files_only=True)
    return pipeline, pipeline.scheduler.config
