"""What is a soft edge of a mask, and what is noise: the crop follows what is to be repainted."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from backend.fakes import FakeTokenizer, fake_bundle, inputs, picture
from gesso_backend.kinds.diffusion import paint
from gesso_backend.kinds.diffusion.families import FAMILIES
from gesso_backend.kinds.diffusion.prepared import Prepared, prepare
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.pixels.edge import FLOOR, settle

Pixels = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 500, 640


def prepared_of(mask: Pixels, **values: Any) -> Prepared:
    bundle = fake_bundle()
    request = parse(inputs(image=picture(*mask.shape), mask_image=mask, seed=1, **values), bundle)
    return prepare(request, bundle, FAMILIES[bundle.family], {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]


def stroke(black: int = 0, white: int = 255) -> Pixels:
    mask = np.full((HEIGHT, WIDTH), black, np.uint8)
    mask[210:250, 300:360] = white
    return mask


def blurred(radius: float) -> Pixels:
    return np.asarray(Image.fromarray(stroke()).filter(ImageFilter.GaussianBlur(radius)))


def reencoded(mask: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def settled(mask: Pixels) -> Pixels:
    return settle(mask, mask.size)


@pytest.mark.parametrize("black", [1, 2, 7, 16, 60])
def test_a_black_that_is_not_quite_black_repaints_nothing(black: int) -> None:
    """AUTOMATIC1111/stable-diffusion-webui#10644: the crop became the whole picture, and all of it changed faintly."""
    prepared, clean = prepared_of(stroke(black)), prepared_of(stroke())
    assert prepared.canvas == clean.canvas
    np.testing.assert_array_equal(prepared.alpha, clean.alpha)
    work = picture(prepared.canvas.work_height, prepared.canvas.work_width, 1)
    np.testing.assert_array_equal(paint.paint(prepared, work), paint.paint(clean, work))


@pytest.mark.parametrize("spread", [2, 5])
def test_a_noisy_black_is_black(spread: int) -> None:
    """The same, of a scan or a video frame: levels that differ from pixel to pixel."""
    noise = np.random.default_rng(0).integers(0, spread + 1, (HEIGHT, WIDTH), np.uint8)
    for black in (0, 16):
        np.testing.assert_array_equal(settled(np.maximum(stroke(), noise + np.uint8(black))), stroke())


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_the_ringing_of_a_jpeg_stays_at_its_stroke(quality: int) -> None:
    """The same, of a mask that went through a JPEG: its crop is the clean mask's but for a block."""
    box = np.argwhere(settled(reencoded(stroke(), quality)))
    assert (box.min(axis=0) >= [210 - 16, 300 - 16]).all()
    assert (box.max(axis=0) < [250 + 16, 360 + 16]).all()


def test_an_inverted_mask_with_a_faint_white_is_clean() -> None:
    """The same through mask_invert: white 253 is a black of 2."""
    prepared, clean = prepared_of(255 - stroke(2), mask_invert=True), prepared_of(stroke())
    np.testing.assert_array_equal(prepared.alpha, clean.alpha)
    assert prepared.canvas == clean.canvas


def test_faint_marks_apart_from_what_is_repainted_are_none() -> None:
    """Guards the crop against a vignette or a smear in a corner: nothing is repainted there."""
    mask = stroke()
    mask[:20, :20] = 100
    mask[-30:] = np.linspace(10, 60, 30, dtype=np.uint8)[:, None]
    np.testing.assert_array_equal(settled(mask), stroke())
    (warning,) = prepared_of(mask).warnings
    assert warning == (
        f"{400 + 30 * WIDTH} pixels of the mask, of levels up to 100, are no soft edge of what is repainted: "
        "they are kept"
    )


@pytest.mark.parametrize("radius", [1, 4, 12, 16])
def test_a_soft_edge_keeps_every_level(radius: float) -> None:
    """Guards the pictures of all who blur their masks, down to the last level: not a byte of them may change."""
    mask = blurred(radius)
    assert mask.max() >= 128
    np.testing.assert_array_equal(settled(mask), mask)
    assert not [warning for warning in prepared_of(mask).warnings if "soft edge" in warning]


@pytest.mark.parametrize("falloff", ["linear", "exponential"])
def test_a_soft_edge_of_another_shape_keeps_every_level(falloff: str) -> None:
    """Guards feathers that are not Gaussian."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.maximum(np.hypot(rows - 250, columns - 320) - 20, 0)
    levels = 255 * (1 - distance / 150) if falloff == "linear" else 255 * np.exp(-distance / 40)
    mask = np.clip(levels, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(settled(mask), mask)


@given(st.integers(0, 2**32 - 1), st.integers(1, 255))
def test_what_is_repainted_stays_and_nothing_grows(seed: int, most: int) -> None:
    """Guards the mask's law for any levels: 0 stays 0, 128 and above stay, and between it is the level or 0."""
    mask = np.random.default_rng(seed).integers(0, most + 1, (90, 70), np.uint8)
    found = settled(mask)
    np.testing.assert_array_equal(found[mask >= 128], mask[mask >= 128])
    assert ((found == mask) | (found == 0)).all()
    np.testing.assert_array_equal(settle(found, found.size)[found >= FLOOR], found[found >= FLOOR])


def test_most_of_a_picture_as_a_faint_edge_is_warned_of() -> None:
    """Guards the user whose picture comes back washed out: a gradient over all of it is an edge by the letter."""
    mask = np.tile(np.linspace(1, 127, WIDTH).astype(np.uint8), (HEIGHT, 1))
    mask[:, -20:] = 255
    (warning, _) = prepared_of(mask).warnings
    assert warning == "97% of the picture is a soft edge of the mask: blended, not repainted"
