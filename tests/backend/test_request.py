"""Validation at the server's door: every bound and default, and the field in every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.fakes import fake_bundle, hole, inputs, picture
from gesso_backend.errors import InvalidRequest, NotFound, RequestError
from gesso_backend.kinds.diffusion.request import Request, parse
from gesso_backend.model.pictures import DIGESTS, check_pixels

BUNDLE = fake_bundle()
IMAGE, MASK = picture(20, 30), hole(20, 30)


def accept(**values: Any) -> Request:
    return parse(inputs(**values), BUNDLE, draw_seed=lambda: 424242)


def refuse(**values: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        accept(**values)
    return caught.value


# Tasks and defaults


def test_a_prompt_alone_is_text_to_image_with_every_default() -> None:
    """Guards the defaults against a second home: they come from the bundle."""
    assert accept(prompt="a fox") == Request(
        task="text_to_image", prompt="a fox", negative_prompt="", negative_prompt_strength=1.0, prompt_weighting=False,
        long_prompt=True, clip_skip=0, image=None, mask_image=None, height=32, width=48,
        num_inference_steps=3, guidance_scale=7.5, guidance_rescale=0.0, strength=1.0, seed=424242, scheduler="ddim",
        timestep_spacing=None, timesteps=None, sigmas=None, eta=0.0,
        num_images_per_prompt=1, padding_mask_crop=None, mask_feather=0, latent_blend=True, require_native=False,
        preview_every=0,
    )  # fmt: skip


def test_the_pictures_decide_the_task_and_the_size() -> None:
    """Guards inference of the task, and the strength that image-to-image alone defaults to."""
    transform, inpaint = accept(image=IMAGE), accept(image=IMAGE, mask_image=MASK)
    assert (transform.task, transform.height, transform.width, transform.strength) == ("image_to_image", 20, 30, 0.8)
    assert (inpaint.task, inpaint.height, inpaint.width, inpaint.strength) == ("inpaint", 20, 30, 1.0)


def test_what_is_given_beats_the_tasks_default() -> None:
    """Guards a task default that would overwrite the client's word."""
    assert accept(image=IMAGE, strength=0.25).strength == 0.25


def test_a_request_cannot_be_edited() -> None:
    """Guards against request state changing under a running generator."""
    with pytest.raises(AttributeError):
        accept().seed = 1  # type: ignore[misc]


def test_every_parameter_arrives() -> None:
    """Guards against an input that is validated and dropped."""
    request = accept(
        prompt="p", negative_prompt="n", negative_prompt_strength=0.5, prompt_weighting=True, long_prompt=False,
        clip_skip=1, image=IMAGE, mask_image=MASK, num_inference_steps=7, guidance_scale=2.5,
        guidance_rescale=0.7, strength=0.5, seed=9, scheduler="euler", timestep_spacing="linspace", eta=0.3,
        num_images_per_prompt=2, padding_mask_crop=4, mask_feather=3, mask_invert=True,
        latent_blend=False, require_native=True, preview_every=2, preview_size=64,
    )  # fmt: skip
    taken = set(fake_bundle().parameters) - {*DIGESTS, "picture_size", "picture_offset"}  # these have their own tests
    found = {name: getattr(request, name) for name in taken if name not in ("height", "width")}
    assert found == {
        "prompt": "p", "negative_prompt": "n", "negative_prompt_strength": 0.5, "prompt_weighting": True,
        "long_prompt": False, "clip_skip": 1, "num_inference_steps": 7, "guidance_scale": 2.5, "strength": 0.5,
        "guidance_rescale": 0.7, "seed": 9, "scheduler": "euler", "timestep_spacing": "linspace", "timesteps": None,
        "sigmas": None, "eta": 0.3, "num_images_per_prompt": 2, "padding_mask_crop": 4, "mask_feather": 3,
        "mask_invert": True, "latent_blend": False, "require_native": True, "preview_every": 2, "preview_size": 64,
    }  # fmt: skip
    np.testing.assert_array_equal(request.image, IMAGE)
    np.testing.assert_array_equal(request.mask_image, 255 - MASK)


@pytest.mark.parametrize(("name", "own"), [("timesteps", [900, 500, 7]), ("sigmas", [14.6, 0.7, 0.0])])
def test_own_steps_arrive_in_place_of_a_number_of_steps(name: str, own: list[Any]) -> None:
    """Guards against a number of steps that says something else than the list."""
    request = accept(**{name: own})
    assert getattr(request, name) == tuple(own)
    assert request.num_inference_steps is None
    effective = request.effective(fake_bundle().parameters)
    assert effective[name] == tuple(own)
    assert "num_inference_steps" not in effective
    error = refuse(**{name: own}, num_inference_steps=3)
    assert str(error) == f"INVALID_ARG: num_inference_steps: is how many {name} there are; leave it out"


# Names and presence


def test_an_unknown_input_is_refused_by_name() -> None:
    """Guards against a misspelt option being ignored and the default used."""
    error = refuse(num_steps=5)
    assert isinstance(error, InvalidRequest)
    assert error.field == "num_steps"
    assert "num_inference_steps" in error.text


def test_a_missing_prompt_is_refused() -> None:
    """Guards the one required input, should Triton's own check go."""
    assert str(refuse(prompt=None)) == "INVALID_ARG: prompt: missing"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_image": MASK}, "mask_image: needs an image"),
        ({"strength": 0.5}, "strength: needs an image"),
        ({"padding_mask_crop": 8}, "padding_mask_crop: needs a mask_image"),
        ({"mask_feather": 0}, "mask_feather: needs a mask_image"),
        ({"image": IMAGE, "mask_feather": 2}, "mask_feather: needs a mask_image"),
        ({"image": IMAGE, "latent_blend": True}, "latent_blend: needs a mask_image"),
        ({"image": IMAGE, "height": 21}, "height: is for text-to-image; the image has 20"),
        ({"image": IMAGE, "width": 32}, "width: is for text-to-image; the image has 30"),
    ],
)
def test_an_input_without_what_it_needs_is_refused(values: dict[str, Any], message: str) -> None:
    """Guards against parameters that are taken and mean nothing."""
    assert str(refuse(**values)) == f"INVALID_ARG: {message}"


# Numbers

BOUNDS = [
    (name, spec.minimum, spec.maximum)
    for name, spec in BUNDLE.parameters.items()
    if spec.type in ("int", "float") and name != "seed"
]
NEEDS = {
    "strength": {"image": IMAGE},
    "padding_mask_crop": {"image": IMAGE, "mask_image": MASK},
    "mask_feather": {"image": IMAGE, "mask_image": MASK},
}


@pytest.mark.parametrize(("name", "minimum", "maximum"), BOUNDS)
def test_both_bounds_are_included_and_beyond_them_is_refused(name: str, minimum: Any, maximum: Any) -> None:
    """Guards every bound of the bundle, off by one in either direction."""
    beyond = 1 if BUNDLE.parameters[name].type == "int" else 1e-3
    needs = NEEDS.get(name, {})
    for value in (minimum, maximum):
        if (name, value) == ("strength", 0.0):
            continue  # has its own refusal, below
        if name in ("height", "width"):
            other = {"height": "width", "width": "height"}[name]
            assert getattr(accept(**{name: value, other: 16}), name) == value
        else:
            assert getattr(accept(**needs, **{name: value}), name) == value
    low, high = refuse(**needs, **{name: minimum - beyond}), refuse(**needs, **{name: maximum + beyond})
    assert (low.field, high.field) == (name, name)
    assert low.text.endswith(f"is below the minimum {minimum}")
    assert high.text.endswith(f"is above the maximum {maximum}")


def test_a_strength_of_zero_says_why() -> None:
    """Guards the bound that the bundle leaves open: nothing would be run."""
    assert str(refuse(image=IMAGE, strength=0.0)) == "INVALID_ARG: strength: 0 would leave no step to run"


def test_a_float32_stands_for_the_decimal_its_sender_wrote() -> None:
    """Guards a whole step: int(10 * 0.7) is 7, and 6 for the float32 nearest to 0.7 and widened."""
    assert int(10 * float(np.float32(0.7))) == 6
    strength = accept(image=IMAGE, strength=0.7).strength
    assert strength == 0.7
    assert int(10 * strength) == 7


@pytest.mark.parametrize("value", [0.1, 0.3, 0.999, 7.5, 1e-6, 33.333])
def test_decimals_survive_the_wire(value: float) -> None:
    """Guards the report, which tells the effective parameters back."""
    assert accept(guidance_scale=value).guidance_scale == value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_guidance_that_is_no_number_is_refused(value: float) -> None:
    """Guards against NaN passing every comparison and coming back as a black picture."""
    error = refuse(guidance_scale=value)
    assert (error.code, error.field) == ("INVALID_ARG", "guidance_scale")


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("num_inference_steps", np.array([5.0], np.float32), "expected int, found float32"),
        ("num_inference_steps", np.array([True]), "expected int, found bool"),
        ("guidance_scale", np.array([5], np.int32), "expected float, found int32"),
        ("preview_every", np.array([b"5"], np.object_), "expected int, found object"),
        ("prompt", np.array([5], np.int32), "expected BYTES, found int32"),
        ("prompt", np.array([None], np.object_), "expected BYTES, found NoneType"),
        ("num_inference_steps", np.array([5, 6], np.int32), "expected shape [1], found [2]"),
        ("num_inference_steps", np.array(5, np.int32), "expected shape [1], found []"),
        ("num_inference_steps", np.array([[5]], np.int32), "expected shape [1], found [1, 1]"),
        ("prompt", np.array([], np.object_), "expected shape [1], found [0]"),
        ("timesteps", np.array([], np.int32), "expected 1 to 200 numbers, found shape [0]"),
        ("timesteps", np.zeros(201, np.int32), "expected 1 to 200 numbers, found shape [201]"),
        ("timesteps", np.array([[5]], np.int32), "expected 1 to 200 numbers, found shape [1, 1]"),
        ("timesteps", np.array([5.0], np.float32), "expected int, found float32"),
        ("timesteps", np.array([5, -1], np.int32), "-1 is below the minimum 0"),
        ("sigmas", np.array([5, 1], np.int32), "expected float, found int32"),
        ("sigmas", np.array([5, np.nan], np.float32), "is not a number"),
        ("sigmas", np.array([2e9, 1.0], np.float32), "2000000000.0 is above the maximum 1000.0"),
    ],
)
def test_a_tensor_of_another_type_or_shape_is_refused(name: str, tensor: np.ndarray[Any, Any], found: str) -> None:
    """Guards against numpy's conversions deciding what a client meant."""
    assert str(refuse(**{name: tensor})) == f"INVALID_ARG: {name}: {found}"


def test_latent_blend_is_a_bool_and_nothing_else() -> None:
    """Guards 0 and 1 from passing for False and True."""
    error = refuse(image=IMAGE, mask_image=MASK, latent_blend=np.array([1], np.int32))
    assert str(error) == "INVALID_ARG: latent_blend: expected bool, found int32"
    assert accept(image=IMAGE, mask_image=MASK, latent_blend=False).latent_blend is False


def test_native_inpainting_can_be_insisted_on() -> None:
    """Guards those who must not be served by blending: a plain model says so, and an inpainting model paints."""
    assert accept(image=IMAGE, mask_image=MASK, require_native=True).require_native
    with pytest.raises(InvalidRequest, match="require_native: not an inpainting model"):
        parse(inputs(image=IMAGE, mask_image=MASK, require_native=True), fake_bundle(in_channels=4))


# Seeds


def test_an_absent_seed_is_drawn_and_zero_is_a_seed() -> None:
    """Guards the classic `seed or random()`."""
    assert accept().seed == 424242
    assert accept(seed=0).seed == 0


def test_drawn_seeds_differ_and_are_in_bounds() -> None:
    """Guards against a process whose every request has one seed."""
    seeds = {parse(inputs(), BUNDLE).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_seed_leaves_room_for_the_last_image() -> None:
    """Guards int64 against seed + i."""
    assert accept(seed=2**63 - 3, num_images_per_prompt=2).seed == 2**63 - 3
    assert refuse(seed=2**63 - 2, num_images_per_prompt=2).field == "seed"
    assert refuse(seed=-1).field == "seed"


# Texts


def test_an_unknown_scheduler_is_not_found_and_lists_the_names() -> None:
    """Guards the field's bug of falling back in silence, and the client who has to guess."""
    error = refuse(scheduler="ddimm")
    assert isinstance(error, NotFound)
    assert str(error) == (
        f"NOT_FOUND: scheduler: 'ddimm' is not one of {', '.join(BUNDLE.parameters['scheduler'].choices or ())}; "
        "did you mean 'ddim'?"
    )


def test_bytes_that_are_not_utf8_are_refused() -> None:
    """Guards the tokenizer."""
    assert str(refuse(prompt=np.array([b"\xff\xfe"], np.object_))) == "INVALID_ARG: prompt: is not UTF-8"


def test_a_text_is_bounded_in_bytes() -> None:
    """Guards the bound against letters of more than one byte."""
    assert accept(prompt="ä" * 32).prompt == "ä" * 32
    assert str(refuse(prompt="ä" * 33)) == "INVALID_ARG: prompt: 66 bytes is above the maximum 64"
    assert refuse(negative_prompt="x" * 65).field == "negative_prompt"


def test_an_empty_prompt_is_a_prompt() -> None:
    """Guards unconditional generation."""
    assert accept(prompt="").prompt == ""


# Pictures


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": IMAGE.astype(np.float32)}, "image: expected uint8, found float32"),
        ({"image": IMAGE[..., 0]}, "image: expected 3 axes, found shape [20, 30]"),
        ({"image": IMAGE[None]}, "image: expected 3 axes, found shape [1, 20, 30, 3]"),
        ({"image": IMAGE[..., :2]}, "image: expected shape [H, W, 3], found [20, 30, 2]"),
        ({"image": IMAGE[:0]}, "image: has no pixel: shape [0, 30, 3]"),
        ({"image": IMAGE, "mask_image": MASK > 0}, "mask_image: expected uint8, found bool"),
        ({"image": IMAGE, "mask_image": MASK[..., None]}, "mask_image: expected 2 axes, found shape [20, 30, 1]"),
        ({"image": IMAGE, "mask_image": MASK[1:]}, "mask_image: size [19, 30] differs from the image's [20, 30]"),
        ({"image": IMAGE, "mask_image": MASK.T}, "mask_image: size [30, 20] differs from the image's [20, 30]"),
        ({"image": IMAGE, "mask_image": MASK[:, :0]}, "mask_image: has no pixel: shape [20, 0]"),
    ],
)
def test_a_picture_of_another_shape_is_refused(values: dict[str, Any], message: str) -> None:
    """Guards against broadcasting a mask, or reading RGBA as RGB."""
    assert str(refuse(**values)) == f"INVALID_ARG: {message}"


@pytest.mark.parametrize("level", [0, 1, 127])
def test_a_mask_that_repaints_nothing_is_refused(level: int) -> None:
    """Guards a request that would cost fifty steps and return its input; a soft edge alone repaints nothing."""
    error = refuse(image=IMAGE, mask_image=np.full((20, 30), level, np.uint8))
    assert error.field == "mask_image"
    assert "is empty" in error.text


def test_one_pixel_at_a_half_is_a_mask() -> None:
    """Guards the other side of that border."""
    mask = np.zeros((20, 30), np.uint8)
    mask[19, 29] = 128
    assert accept(image=IMAGE, mask_image=mask).task == "inpaint"


def test_a_picture_beyond_all_bounds_is_refused_before_it_is_copied() -> None:
    """Guards memory; the array is a view of one pixel."""
    vast = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (2**40, 1024, 3))
    with pytest.raises(InvalidRequest, match=f"image: {2**50} pixels is above the maximum {2**20}"):
        check_pixels(inputs(image=vast), 2**20)


def test_a_picture_need_not_be_contiguous() -> None:
    """Guards transposed views, whose bytes are not in the order of their pixels."""
    request = accept(image=IMAGE.transpose(1, 0, 2), mask_image=MASK.T)
    np.testing.assert_array_equal(request.image, IMAGE.transpose(1, 0, 2))
    assert request.image is not None
    assert request.image.flags.c_contiguous


# Flat pictures: what Triton's generate_stream makes of JSON lists


def test_flat_pictures_get_their_shape_from_height_and_width() -> None:
    """Guards HTTP streaming, where Triton delivers a list of numbers as one row."""
    request = accept(image=IMAGE.reshape(1, -1, 3), mask_image=MASK.reshape(1, -1), height=20, width=30)
    np.testing.assert_array_equal(request.image, IMAGE)
    np.testing.assert_array_equal(request.mask_image, MASK)
    assert (request.height, request.width) == (20, 30)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (1, 5), (3000, 2), (427, 640)])
def test_flat_pictures_of_any_size_are_taken(height: int, width: int) -> None:
    """Guards a bug once here: the bounds of text-to-image's height refused small and large pictures on this path."""
    image = picture(height, width)
    request = accept(
        image=image.reshape(1, -1, 3),
        mask_image=np.full((1, height * width), 255, np.uint8),
        height=height,
        width=width,
    )
    np.testing.assert_array_equal(request.image, image)


def test_flat_pictures_without_a_size_are_one_row() -> None:
    """Guards a real picture one pixel high, which looks the same."""
    request = accept(image=IMAGE[:1])
    assert (request.height, request.width) == (1, 30)


def test_flat_pictures_of_another_size_are_refused() -> None:
    """Guards against a wrong guess at the shape: a picture sheared into stripes."""
    assert refuse(image=IMAGE.reshape(1, -1, 3), height=20, width=31).field == "height"


# Sizes of text-to-image


def test_a_size_off_the_grid_is_refused() -> None:
    """Guards text-to-image against padding that nobody sees: there is no picture to crop back to."""
    assert str(refuse(height=36)) == "INVALID_ARG: height: 36 is not a multiple of 8"
    assert str(refuse(width=50)) == "INVALID_ARG: width: 50 is not a multiple of 8"


def test_an_area_above_the_models_is_refused() -> None:
    """Guards memory where both sides are in bounds."""
    assert accept(height=128, width=128).height == 128
    assert str(refuse(height=128, width=136)) == (
        "INVALID_ARG: height: height * width is above the maximum of 16384 pixels"
    )


# What the report tells back


def test_effective_parameters_are_those_the_task_has() -> None:
    """Guards the report against parameters that meant nothing in this request."""
    taken = fake_bundle().parameters
    assert "strength" not in accept().effective(taken)
    assert "mask_feather" not in accept(image=IMAGE).effective(taken)
    everything = accept(image=IMAGE, mask_image=MASK).effective(taken)
    assert not {"true_cfg_scale", "max_sequence_length"} & set(everything), "this model does not take them"
    assert {"strength", "mask_feather", "padding_mask_crop", "latent_blend", "seed", "scheduler"} <= set(everything)
    assert not {"image", "mask_image", "prompt"} & set(everything)
