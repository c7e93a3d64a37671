"""The seam at the mask's edge: the decoder's error is taken out of what was painted, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from gesso_backend.pixels import seam
from gesso_backend.pixels.mask import Floats, Pixels

SHAPES = [(64, 64), (33, 57), (8, 90)]


def scene(height: int, width: int) -> tuple[Pixels, Floats]:
    """A smooth picture, and a mask of its middle."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack([60 + 100 * y / height, 80 + 90 * x / width, np.full_like(x, 120)], axis=-1)
    mask = np.zeros((height, width), np.float32)
    mask[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
    return np.rint(picture).astype(np.uint8), mask


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decoder_that_is_off_by_a_tone_leaves_no_trace(shape: tuple[int, int]) -> None:
    """Guards the purpose: what a VAE gives back too dark is given its light back, across the whole mask."""
    picture, mask = scene(*shape)
    dark = (picture - np.array([9, 14, 4])).astype(np.uint8)
    closed = seam.close(dark, picture, mask)
    assert np.abs(closed.astype(int) - picture)[mask > 0].max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_that_changes_along_the_edge_is_followed(shape: tuple[int, int]) -> None:
    """Guards a constant shift from passing for the real thing: a slope of errors is continued as a slope."""
    picture, mask = scene(*shape)
    slope = np.linspace(-12, 12, shape[1])[None, :, None]
    off = np.rint(picture + slope).astype(np.uint8)
    closed = seam.close(off, picture, mask)
    before, after = (np.abs(p.astype(int) - picture)[mask > 0].mean() for p in (off, closed))
    assert after < before / 4


def test_only_what_is_repainted_changes() -> None:
    """Guards the decoded picture outside the mask, which soft masks are composited from."""
    picture, mask = scene(40, 40)
    dark = (picture - 10).astype(np.uint8)
    closed = seam.close(dark, picture, mask)
    np.testing.assert_array_equal(closed[mask == 0], dark[mask == 0])
    assert closed.dtype == np.uint8


def test_a_thing_that_reaches_the_edge_does_not_bleed_into_what_is_beside_it() -> None:
    """Guards painted things: their difference from the original is no error of the decoder."""
    picture, mask = scene(64, 64)
    painted = picture.copy()
    painted[20:40, 10:50] = (250, 10, 10)  # across the mask and beyond it
    np.testing.assert_array_equal(seam.close(painted, picture, mask), painted)


def test_a_mask_that_leaves_nothing_known_changes_nothing() -> None:
    """Guards the whole picture as a mask, and a decoder that is wrong everywhere."""
    picture, _ = scene(24, 24)
    painted = (255 - picture).astype(np.uint8)
    np.testing.assert_array_equal(seam.close(painted, picture, np.ones((24, 24), np.float32)), painted)
    _, mask = scene(24, 24)
    inverted = np.full_like(picture, 255)
    np.testing.assert_array_equal(seam.close(inverted, np.zeros_like(picture), mask), inverted)


def test_the_membrane_keeps_what_is_known_and_stays_between() -> None:
    """Guards the surface: exact on its rim, and no higher or lower anywhere than its rim."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-5, 5, (37, 50, 3)).astype(np.float32)
    known = (rng.random((37, 50)) < 0.2).astype(np.float32)
    surface = seam.membrane(values, known)
    np.testing.assert_array_equal(surface[known > 0], values[known > 0])
    assert surface.min() >= values[known > 0].min() - 1e-4
    assert surface.max() <= values[known > 0].max() + 1e-4
    assert surface.dtype == np.float32
