"""Any size in, the same size out, and not a byte changed where the mask is 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.fakes import FakeTokenizer, fake_bundle, inputs, picture
from gesso_backend.kinds.diffusion.families import FAMILIES
from gesso_backend.kinds.diffusion.paint import enlarge, paint
from gesso_backend.kinds.diffusion.prepared import Prepared, prepare
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.model.bundle import SizeSpec
from gesso_backend.pixels import canvas as canvases
from gesso_backend.pixels.canvas import WHOLE_IMAGE, Canvas
from gesso_backend.pixels.mask import binarise

sides = st.integers(1, 700)
specs = st.builds(
    lambda multiple, native, more: SizeSpec(multiple * native, multiple, (multiple * native) ** 2 * more),
    st.sampled_from([1, 2, 8, 64]),
    st.integers(4, 16),
    st.integers(1, 4),
)
crops = st.one_of(st.none(), st.just(WHOLE_IMAGE), st.integers(0, 300))
AWKWARD = [(427, 640), (1, 1), (7, 7), (1, 5000), (5000, 1), (2, 700), (64, 64), (63, 65)]
SIZE = SizeSpec(native=64, multiple=8, max_pixels=128 * 128)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, npt.NDArray[np.uint8]]:
    """(height, width, mask): up to two boxes of any size, down to a pixel, anywhere."""
    height, width = draw(sides), draw(sides)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 2))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        mask[top:bottom, left:right] = draw(st.sampled_from([128, 200, 255]))
    return height, width, mask


def check(canvas: Canvas, height: int, width: int, size: SizeSpec) -> None:
    assert canvas.top >= 0
    assert canvas.left >= 0
    assert canvas.height >= 1
    assert canvas.width >= 1
    assert canvas.top + canvas.height <= height
    assert canvas.left + canvas.width <= width
    assert canvas.work_height % size.multiple == canvas.work_width % size.multiple == 0
    assert 1 <= canvas.scaled_height <= canvas.work_height < canvas.scaled_height + size.multiple
    assert 1 <= canvas.scaled_width <= canvas.work_width < canvas.scaled_width + size.multiple
    assert canvas.work_height * canvas.work_width <= size.max_pixels


@given(boxes(), specs, crops)
def test_the_canvas_lies_in_the_picture_holds_the_mask_and_fits_the_model(
    case: tuple[int, int, npt.NDArray[np.uint8]], size: SizeSpec, padding_mask_crop: int | None
) -> None:
    """Guards the geometry everything else is built on, for every picture, mask, model and crop."""
    height, width, mask = case
    canvas = canvases.choose(height, width, mask, size, padding_mask_crop)
    check(canvas, height, width, size)
    outside = mask.copy()
    canvas.crop(outside)[:] = 0
    assert not outside.any()


@given(sides, sides, specs, crops)
def test_a_picture_without_a_mask_is_worked_on_whole(
    height: int, width: int, size: SizeSpec, padding_mask_crop: int | None
) -> None:
    """Guards image-to-image: there is nothing to crop to."""
    canvas = canvases.choose(height, width, None, size, padding_mask_crop)
    check(canvas, height, width, size)
    assert (canvas.height, canvas.width) == (height, width)


@given(boxes(), specs)
def test_an_automatic_crop_stays_in_its_budget(case: tuple[int, int, npt.NDArray[np.uint8]], size: SizeSpec) -> None:
    """Guards speed and quality: a model is not run far above the size it was trained at unless asked to."""
    height, width, mask = case
    canvas = canvases.choose(height, width, mask, size, None)
    # Padding may go a multiple beyond the budget when the whole picture is inside it.
    if height * width > size.native**2:
        assert canvas.work_height * canvas.work_width <= 2 * size.native**2


@given(boxes(), st.integers(0, 300))
def test_a_crop_by_hand_has_its_context_and_no_more(case: tuple[int, int, npt.NDArray[np.uint8]], context: int) -> None:
    """Guards padding_mask_crop's meaning: that many pixels around the mask, up to a multiple, inside the picture."""
    height, width, mask = case
    canvas = canvases.choose(height, width, mask, SIZE, context)
    for low, length, whole, along in (
        (canvas.top, canvas.height, height, mask.any(axis=1)),
        (canvas.left, canvas.width, width, mask.any(axis=0)),
    ):
        first, last = np.flatnonzero(along)[[0, -1]]
        wanted = min(last + 1 + context, whole) - max(first - context, 0)
        assert low <= max(first - context, 0)
        assert low + length >= min(last + 1 + context, whole)
        assert wanted <= length < wanted + SIZE.multiple


def test_a_large_picture_is_cropped_to_its_mask_at_native_size() -> None:
    """Guards the automatic crop's point: the network sees the hole at full resolution, with real context."""
    mask = np.zeros((600, 700), np.uint8)
    mask[300:310, 400:410] = 255
    canvas = canvases.choose(600, 700, mask, SIZE, None)
    assert (canvas.height, canvas.width) == (64, 64) == (canvas.work_height, canvas.work_width)
    assert (canvas.top, canvas.left) == (273, 373)
    whole = canvases.choose(600, 700, mask, SIZE, WHOLE_IMAGE)
    assert (whole.height, whole.width) == (600, 700)
    assert (whole.work_height, whole.work_width) == (112, 136)


def test_a_picture_slightly_larger_than_native_is_cropped_too() -> None:
    """Guards speed: the working size is as small as the mask allows, down to the native size and no further."""
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40, 10:30] = 255
    canvas = canvases.choose(64, 96, mask, SIZE, None)
    assert (canvas.work_height, canvas.work_width) == (64, 64)
    assert canvases.choose(64, 64, mask[:, :64], SIZE, None).work_width == 64


@pytest.mark.parametrize(("height", "width"), AWKWARD)
def test_cut_and_uncut_are_of_the_right_sizes(height: int, width: int) -> None:
    """Guards the round trip for the field's awkward sizes."""
    canvas = canvases.choose(height, width, None, SIZE, None)
    image = picture(height, width)
    work = canvas.cut(image)
    assert work.shape == (canvas.work_height, canvas.work_width, 3)
    assert work.dtype == np.uint8
    assert canvas.uncut(work).shape == (height, width, 3)


@given(st.integers(1, 120), st.integers(1, 120))
def test_a_picture_that_needs_no_scaling_comes_back_to_the_byte(height: int, width: int) -> None:
    """Guards padding: it is cut off again and never resampled; and it is the picture's own reflection."""
    canvas = canvases.choose(height, width, None, SIZE, None)
    image = picture(height, width)
    work = canvas.cut(image)
    assert (canvas.scaled_height, canvas.scaled_width) == (height, width)
    np.testing.assert_array_equal(canvas.uncut(work), image)
    if 1 < height < canvas.work_height:
        np.testing.assert_array_equal(work[height, :width], image[height - 2])


@given(boxes(), st.sampled_from([SIZE, SizeSpec(16, 8, 1024)]), crops)
def test_no_part_of_the_mask_is_lost_on_the_canvas(
    case: tuple[int, int, npt.NDArray[np.uint8]], size: SizeSpec, padding_mask_crop: int | None
) -> None:
    """Guards thin strokes through scaling down: every pixel of the mask falls on repainted canvas."""
    height, width, mask = case
    canvas = canvases.choose(height, width, mask, size, padding_mask_crop)
    working = canvas.cut_mask(binarise(mask))
    assert working.shape == (canvas.work_height, canvas.work_width)
    assert set(np.unique(working)) <= {0.0, 1.0}
    rows, columns = np.nonzero(canvas.crop(mask))
    y = (rows + 0.5) * canvas.scaled_height / canvas.height
    x = (columns + 0.5) * canvas.scaled_width / canvas.width
    nudges = [(dy, dx) for dy in (-1e-6, 1e-6) for dx in (-1e-6, 1e-6)]  # a centre on a border belongs to either side
    assert np.max([working[(y + dy).astype(int), (x + dx).astype(int)] for dy, dx in nudges], axis=0).all()


def test_a_pixel_survives_being_scaled_down_five_hundredfold() -> None:
    """Guards a loss once here: its share of a cell, in bytes, was rounded to nothing, and nothing was repainted."""
    mask = np.zeros((2200, 2200), np.uint8)
    mask[5, 5] = mask[2190, 2180] = 255  # far apart, so that no crop helps
    canvas = canvases.choose(2200, 2200, mask, SIZE, None)
    assert canvas.height * canvas.width > 510 * canvas.scaled_height * canvas.scaled_width
    assert canvas.cut_mask(binarise(mask)).sum() == 2


@given(st.integers(1, 100), st.integers(1, 100))
def test_an_unscaled_mask_is_not_widened(height: int, width: int) -> None:
    """Guards sharp masks where nothing is resampled."""
    mask = np.random.default_rng(height * 101 + width).integers(0, 256, (height, width), np.uint8)
    assume((mask >= 128).any())
    canvas = canvases.choose(height, width, mask, SIZE, WHOLE_IMAGE)
    np.testing.assert_array_equal(canvas.cut_mask(binarise(mask))[:height, :width], binarise(mask))


# The law of the mask, through the whole way in and out


def prepared_of(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8] | None, **values: Any) -> Prepared:
    bundle = fake_bundle()
    request = parse(inputs(image=image, mask_image=mask, **values), bundle)
    return prepare(request, bundle, FAMILIES[bundle.family], {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]


def repainted(prepared: Prepared, seed: int) -> npt.NDArray[np.uint8]:
    """A canvas that shares nothing with what was cut."""
    return picture(prepared.canvas.work_height, prepared.canvas.work_width, seed)


@given(boxes(), crops, st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_pixels_outside_the_mask_are_untouched(
    case: tuple[int, int, npt.NDArray[np.uint8]], crop: int | None, mask_feather: int, seed: int
) -> None:
    """The user's mask is law: whatever the size, crop, feather and network, where it is 0 the output is the input."""
    height, width, mask = case
    image = picture(height, width, seed)
    values = {} if crop is None else {"padding_mask_crop": crop}
    prepared = prepared_of(image, mask, mask_feather=mask_feather, **values)
    output = paint(prepared, repainted(prepared, seed + 1))
    assert output.shape == image.shape
    np.testing.assert_array_equal(output[mask == 0], image[mask == 0])


def test_a_pixel_on_the_border_of_two_cells_is_repainted() -> None:
    """Guards the smallest mask: scaled down from 147x329 to 80x184, this one fell between two cells and was lost."""
    mask = np.zeros((147, 329), np.uint8)
    mask[0, 164] = 255
    prepared = prepared_of(picture(147, 329), mask, padding_mask_crop=-1)
    assert prepared.repaint is not None
    assert prepared.repaint.sum() == 1


@pytest.mark.parametrize(("height", "width"), AWKWARD)
@pytest.mark.parametrize("mask", ["full", "pixel", "line", "soft"])
def test_awkward_sizes_and_masks_come_back_at_their_size_untouched_outside(height: int, width: int, mask: str) -> None:
    """The field's list, by name: 427x640, 1x1, 7x7; full, one-pixel and one-pixel-wide masks."""
    masks = {name: np.zeros((height, width), np.uint8) for name in ("full", "pixel", "line", "soft")}
    masks["full"][:] = 255
    masks["pixel"][height // 2, width // 2] = 255
    masks["line"][:, width // 3] = 255
    masks["soft"][:] = np.linspace(0, 255, width, dtype=np.uint8)
    masks["soft"][0, -1] = 255
    image = picture(height, width)
    prepared = prepared_of(image, masks[mask])
    assert prepared.latent_mask is not None
    assert prepared.latent_mask.any()  # and something is repainted
    output = paint(prepared, repainted(prepared, 1))
    assert output.shape == image.shape
    np.testing.assert_array_equal(output[masks[mask] == 0], image[masks[mask] == 0])


def test_ten_cycles_leave_unmasked_bytes_identical() -> None:
    """Guards against drift: painting on one's own result again and again must not wash out the rest."""
    original = picture(427, 640)
    image = original
    outside = np.ones((427, 640), np.bool_)
    for cycle in range(10):
        mask = np.zeros((427, 640), np.uint8)
        mask[20 * cycle : 20 * cycle + 100, 40 * cycle : 40 * cycle + 90] = 255
        outside &= mask == 0
        prepared = prepared_of(image, mask, mask_feather=cycle)
        image = paint(prepared, repainted(prepared, cycle + 1))
    np.testing.assert_array_equal(image[outside], original[outside])
    assert not np.array_equal(image, original)


def test_a_white_mask_without_feather_takes_the_painting_whole() -> None:
    """Guards the inside of the mask: the law must not be kept by painting nothing."""
    image, mask = picture(32, 48), np.full((32, 48), 255, np.uint8)
    prepared = prepared_of(image, mask)
    painting = repainted(prepared, 1)
    np.testing.assert_array_equal(paint(prepared, painting), painting)


def test_the_callers_picture_is_not_painted_on() -> None:
    """Guards the input: previews are composited from it while the request runs."""
    image, mask = picture(32, 48), np.full((32, 48), 255, np.uint8)
    before = image.copy()
    prepared = prepared_of(image, mask)
    paint(prepared, repainted(prepared, 1))
    np.testing.assert_array_equal(image, before)


def test_without_a_mask_the_painting_is_the_picture() -> None:
    """Guards image-to-image at a size that is padded: cropped back, nothing laid over it."""
    image = picture(23, 57)
    prepared = prepared_of(image, None)
    painting = repainted(prepared, 1)
    np.testing.assert_array_equal(paint(prepared, painting), painting[:23, :57])


def test_a_preview_has_the_size_of_the_canvas() -> None:
    """Guards previews: latent-sized colours are enlarged to what `paint` takes."""
    prepared = prepared_of(picture(23, 57), None)
    rgb = picture(*prepared.latent_shape)
    assert enlarge(prepared, rgb).shape == (24, 64, 3)
