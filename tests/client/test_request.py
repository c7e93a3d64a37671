"""Options become tensors in one place."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.tiny import PARAMETERS, client, description
from gesso_client import InvalidRequest, ModelInfo
from gesso_client.request import build, task_of

INFO = ModelInfo.parse("inpaint", description())
IMAGE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
MASK = np.zeros((5, 7), bool)
MASK[1:3, 2:4] = True


def made(
    task: str = "inpaint", info: ModelInfo = INFO, prompt: Any = "a cat", live: bool = False, **options: Any
) -> Any:
    image, mask = options.pop("image", IMAGE), options.pop("mask", MASK)
    if task != "inpaint":
        mask = None
    return build(info, task, prompt, None if task == "text_to_image" else image, mask, options, live=live)


def refused(words: str, **options: Any) -> str | None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        made(**options)
    return caught.value.field


def test_what_is_left_out_is_not_sent() -> None:
    request = made(seed=None, scheduler=None, deadline=None)
    assert set(request.inputs) == {"prompt", "image", "mask_image"}
    assert request.inputs["prompt"].tolist() == [b"a cat"]
    assert np.array_equal(request.inputs["image"], IMAGE)
    assert np.array_equal(request.inputs["mask_image"], np.where(MASK, 255, 0))
    assert (request.height, request.width, request.count, request.deadline) == (5, 7, 1, None)


def test_every_option_has_its_type_on_the_wire() -> None:
    """The table of the wire contract: a tensor of another type is refused by Triton itself."""
    texts = {"negative_prompt": "dog", "scheduler": "euler", "timestep_spacing": "trailing"}
    reals = {
        "negative_prompt_strength": 0.9,
        "guidance_scale": 0.7,
        "guidance_rescale": 0.1,
        "strength": 0.5,
        "eta": 0.3,
        "sigmas": [2.5, 1],
    }
    integers = {"num_inference_steps": 3, "num_images_per_prompt": 2, "padding_mask_crop": -1, "mask_feather": 4}
    integers |= {"clip_skip": 1, "preview_every": 1, "timesteps": (900, 500, 7)}
    bools = {"latent_blend": False, "require_native": True, "prompt_weighting": True, "long_prompt": False}
    request = made(**texts, **reals, **integers, seed=2**62, **bools)
    inputs = request.inputs
    kinds = {name: array.dtype.kind + str(array.dtype.itemsize) for name, array in inputs.items()}
    assert kinds == (
        {"image": "u1", "mask_image": "u1", "prompt": "O8", "seed": "i8"}
        | dict.fromkeys(bools, "b1")
        | dict.fromkeys(texts, "O8")
        | dict.fromkeys(reals, "f4")
        | dict.fromkeys(integers, "i4")
    )
    assert request.lists == {"timesteps", "sigmas"}
    assert all(inputs[name].shape == (1,) for name in kinds.keys() - request.lists - {"image", "mask_image"})
    assert inputs["timesteps"].tolist() == [900, 500, 7]
    assert inputs["sigmas"].tolist() == [2.5, 1.0]
    assert inputs["seed"][0] == 2**62


def test_a_list_of_one_number_is_still_a_list() -> None:
    """Its tensor looks like a scalar's, and one transport has to tell them apart."""
    request = made(timesteps=[5], num_inference_steps=5)
    assert request.inputs["timesteps"].shape == request.inputs["num_inference_steps"].shape == (1,)
    assert request.lists == {"timesteps"}


def test_a_parameter_that_is_newer_than_this_client_is_taken() -> None:
    """The model's description is enough to check and to send it."""
    newer = {"mask_grow": {"type": "int", "datatype": "INT32", "maximum": 9}, "shifts": PARAMETERS["sigmas"]}
    info = ModelInfo.parse("inpaint", description(parameters=PARAMETERS | newer))
    request = made(info=info, mask_grow=3, shifts=[0.5, 2])
    assert (request.inputs["mask_grow"].dtype, request.inputs["mask_grow"].tolist()) == (np.int32, [3])
    assert (request.inputs["shifts"].dtype, request.inputs["shifts"].tolist()) == (np.float32, [0.5, 2.0])
    assert "mask_grow" not in made(info=info, mask_grow=None).inputs
    assert refused("10 is above the maximum 9", info=info, mask_grow=10) == "mask_grow"
    assert refused("unknown option; .*, negative_prompt_strength, .*, preview_every, .*, model, ", mask_grow=3)
    assert refused("unknown option; .*, mask_grow, ", info=info, mask_shrink=3) == "mask_shrink"


@pytest.mark.parametrize("name", ["image", "mask_image", "prompt"])
def test_pictures_and_the_prompt_are_no_options(name: str) -> None:
    with pytest.raises(InvalidRequest, match="unknown option; known are negative_prompt, "):
        build(INFO, "inpaint", "a cat", IMAGE, MASK, {name: "x"}, live=False)  # type: ignore[typeddict-unknown-key]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "7 is not a list"),
        ("700", "'700' is not a list"),
        ([], "expected 1 to 5 numbers, found 0"),
        ([6, 5, 4, 3, 2, 1], "expected 1 to 5 numbers, found 6"),
        ([500, 1.5], "1.5 is not an integer"),
        ([1001, 5], "1001 is above the maximum 1000"),
    ],
)
def test_a_list_is_checked_item_by_item(value: Any, words: str) -> None:
    assert refused(re.escape(words), timesteps=value) == "timesteps"


def test_an_unknown_option_is_named() -> None:
    assert refused("unknown option; known are negative_prompt, ", num_steps=3) == "num_steps"
    assert refused("unknown option", prompt2="x") == "prompt2"


def test_an_option_the_model_does_not_take_is_named() -> None:
    fewer = {name: spec for name, spec in PARAMETERS.items() if name != "mask_feather"}
    assert refused(
        "'inpaint' does not take it", info=ModelInfo.parse("inpaint", description(parameters=fewer)), mask_feather=1
    )


def test_bounds_are_checked_before_anything_is_decoded() -> None:
    assert refused("99.0 is above the maximum 50.0", guidance_scale=99, image=b"junk") == "guidance_scale"


def test_an_integer_that_does_not_fit_the_wire_is_refused_even_without_bounds() -> None:
    """numpy 1 would wrap it around."""
    unbounded = description(parameters=PARAMETERS | {"mask_feather": {"type": "int", "datatype": "INT32"}})
    info = ModelInfo.parse("inpaint", unbounded)
    assert refused("does not fit in int32", info=info, mask_feather=2**31) == "mask_feather"


def test_the_task_follows_from_what_is_there() -> None:
    assert task_of(None, None, {}) == "text_to_image"
    assert task_of(IMAGE, None, {}) == "image_to_image"
    assert task_of(IMAGE, MASK, {}) == task_of(IMAGE, None, {"alpha_means": "keep"}) == "inpaint"


def test_a_task_the_model_does_not_serve_is_refused() -> None:
    info = ModelInfo.parse("inpaint", description(tasks=["inpaint"]))
    assert refused("does not serve text_to_image, only inpaint", info=info, task="text_to_image") == "model"


def test_what_is_missing_is_named() -> None:
    assert refused("missing", prompt=None) == "prompt"
    assert refused("missing", image=None) == "image"
    assert refused("missing; give a mask, or alpha_means", mask=None) == "mask_image"


def test_the_size_is_for_text_to_image_only() -> None:
    text = made(task="text_to_image", height=16, width=24)
    assert (text.inputs["height"].tolist(), text.inputs["width"].tolist()) == ([16], [24])
    assert (text.height, text.width) == (16, 24)
    default = made(task="text_to_image")
    assert ("height" in default.inputs, default.height, default.width) == (False, 32, 48)
    assert refused("is for text-to-image; the image has 5", height=8) == "height"
    assert "height" not in made(height=None).inputs


def test_a_mask_in_the_alpha_keeps_the_colours_under_it() -> None:
    """Compositing first would repaint the holes from white, and change half-kept pixels."""
    rgba = np.dstack([IMAGE, np.where(MASK, 0, 255).astype(np.uint8)])
    request = made(image=rgba, mask=None, alpha_means="keep")
    assert np.array_equal(request.inputs["image"], IMAGE)
    assert np.array_equal(request.inputs["mask_image"], np.where(MASK, 255, 0))
    beside = made(image=IMAGE, mask=np.dstack([IMAGE, np.where(MASK, 255, 0).astype(np.uint8)]), alpha_means="repaint")
    assert np.array_equal(beside.inputs["mask_image"], np.where(MASK, 255, 0))


def test_the_image_is_never_resampled() -> None:
    request = made(mask=np.ones((50, 70), bool), fit_mask=True)
    assert np.array_equal(request.inputs["image"], IMAGE)
    assert request.inputs["mask_image"].shape == (5, 7)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", True])
def test_a_deadline_is_a_number_of_seconds(seconds: Any) -> None:
    assert refused("is not a number of seconds above 0", deadline=seconds) == "deadline"


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_a_deadline_never_becomes_none(seconds: float) -> None:
    """Triton takes a timeout of 0 for no timeout at all."""
    request = made(task="text_to_image", deadline=seconds)
    timeout = request.parameters["timeout"]
    assert timeout >= 1
    assert abs(timeout - seconds * 1e6) <= 1


def test_a_request_is_frozen() -> None:
    request = made()
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.model = "x"
    with pytest.raises(TypeError):
        request.inputs["seed"] = np.array([1])


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=16))
def test_every_prompt_arrives_as_it_was(prompt: str) -> None:
    assert made(task="text_to_image", prompt=prompt).inputs["prompt"][0].decode() == prompt


def test_numbers_of_numpy_are_numbers() -> None:
    request = made(
        guidance_scale=np.float32(0.5),
        seed=np.uint64(5),
        latent_blend=np.bool_(True),
        num_images_per_prompt=np.array(1),
        timesteps=np.array([900, 1]),
        deadline=np.float64(3),
        priority=np.str_("normal"),
    )
    found = {name: request.inputs[name].tolist() for name in ("guidance_scale", "seed", "latent_blend", "timesteps")}
    assert found == {"guidance_scale": [0.5], "seed": [5], "latent_blend": [True], "timesteps": [900, 1]}
    assert (request.deadline, request.priority) == (3.0, "normal")


@pytest.mark.parametrize("name", ["priority", "timesteps", "seed", "scheduler", "deadline", "model"])
@pytest.mark.parametrize("value", [np.array(["a", "b"]), np.array(5.5), np.array([[1.0]]), object(), {}, [None]])
def test_whatever_a_value_is_the_error_names_the_field(name: str, value: Any) -> None:
    gesso, transport = client()
    with pytest.raises(InvalidRequest) as caught:
        gesso.inpaint(IMAGE, MASK, "a cat", **{name: value})
    assert (caught.value.field, transport.requests) == (name, [])


def test_the_priority_is_a_parameter_of_the_request() -> None:
    """Guards the wire: Triton reserves the name `priority` for itself."""
    assert made(priority="background").parameters == {"gesso_priority": "background"}
    assert made().parameters == {}


@pytest.mark.parametrize("value", ["urgent", "", 1, True, ["normal"]])
def test_a_priority_is_one_of_three(value: Any) -> None:
    assert refused("is not one of interactive, normal, background", priority=value) == "priority"


def test_a_model_that_takes_no_prompt_is_sent_none() -> None:
    """Guards other kinds of models: an empty prompt is left out, another is refused as any parameter is."""
    wordless = ModelInfo.parse("filler", description(kind="filler", family=None, parameters={}))
    request = build(wordless, "inpaint", "", IMAGE, MASK, {}, live=False)
    assert set(request.inputs) == {"image", "mask_image"}
    with pytest.raises(InvalidRequest, match="does not take it"):
        build(wordless, "inpaint", "a cat", IMAGE, MASK, {}, live=False)
