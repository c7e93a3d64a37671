"""Masks: parity with diffusers for what is large, survival for what is thin, and an edge that stays inside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gesso_backend.pixels import composite
from gesso_backend.pixels import mask as masks

FACTOR = 8
CELLS = 12
SIDE = FACTOR * CELLS
WHITE = np.float32(1)

offsets = st.integers(0, SIDE - 1)
small_masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def nearest(mask: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """As the diffusers inpainting pipelines do it."""
    h, w = (side // FACTOR for side in mask.shape)
    resized = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], size=(h, w))
    return np.asarray(resized[0, 0].numpy())


def pooled(mask: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Every cell that a mask pixel lies in."""
    return np.asarray(mask.reshape(mask.shape[0] // FACTOR, FACTOR, -1, FACTOR).max(axis=(1, 3)))


def blank() -> npt.NDArray[np.float32]:
    return np.zeros((SIDE, SIDE), np.float32)


def test_a_half_is_decided_as_diffusers_does() -> None:
    """Guards parity at the threshold, where soft masks have most of their pixels: 127 keeps, 128 repaints."""
    assert masks.binarise(np.array([[0, 1, 127, 128, 129, 255]], np.uint8)).tolist() == [[0, 0, 0, 1, 1, 1]]
    levels = np.arange(256, dtype=np.uint8)
    as_diffusers = (levels.astype(np.float32) / 255 >= 0.5).astype(np.float32)
    np.testing.assert_array_equal(masks.binarise(levels[None])[0], as_diffusers)


# To latents


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda s: (s[0] * 8, s[1] * 8))))
def test_without_keep_thin_the_latent_mask_is_torchs_nearest(mask: npt.NDArray[np.bool_]) -> None:
    """Guards diffusers' semantics, to be had with latent_blend off."""
    cells, _ = masks.to_latents(mask.astype(np.float32), FACTOR, keep_thin=False)
    np.testing.assert_array_equal(cells, nearest(mask.astype(np.float32)))
    assert cells.dtype == np.float32


@given(offsets, st.integers(0, SIDE - 24), st.integers(24, SIDE), st.booleans())
def test_a_straight_stroke_one_pixel_wide_survives_whole(offset: int, start: int, length: int, upright: bool) -> None:
    """Guards wires, cracks and scratches: nearest alone loses seven of eight such strokes without a trace."""
    mask = blank()
    mask[offset, start : start + length] = WHITE
    mask = mask.T.copy() if upright else mask
    cells, _ = masks.to_latents(mask, FACTOR, keep_thin=True)
    assert cells.any()
    # The last cell of the stroke may be a sliver next to one that nearest found; the rest is there.
    inner = blank()
    inner[offset, min(start + FACTOR, SIDE - 1) : max(start + length - FACTOR, 0)] = WHITE
    inner = inner.T if upright else inner
    assert (cells >= pooled(np.ascontiguousarray(inner))).all()


@given(st.integers(-SIDE + 1, SIDE - 1), st.booleans())
def test_a_diagonal_stroke_one_pixel_wide_survives(offset: int, rising: bool) -> None:
    """Guards the case where a stroke falls between the sampled pixels of every cell it crosses."""
    mask = np.eye(SIDE, k=offset, dtype=np.float32)
    mask = np.ascontiguousarray(mask[::-1]) if rising else mask
    cells, _ = masks.to_latents(mask, FACTOR, keep_thin=True)
    assert cells.sum() >= max(mask.sum() // FACTOR, 1)  # a cell for every cell's length of it


@given(offsets, offsets)
def test_a_single_pixel_repaints_its_cell_and_no_other(y: int, x: int) -> None:
    """Guards the smallest mask there is: a dust speck."""
    mask = blank()
    mask[y, x] = WHITE
    cells, _ = masks.to_latents(mask, FACTOR, keep_thin=True)
    assert np.argwhere(cells).tolist() == [[y // FACTOR, x // FACTOR]]


@given(hnp.arrays(np.bool_, (40, 48), elements=st.booleans(), fill=st.just(False)))
def test_nothing_of_any_mask_is_further_than_a_cell_from_what_is_repainted(mask: npt.NDArray[np.bool_]) -> None:
    """Guards every other shape: keep_thin adds only cells that hold mask, and leaves no part of it alone."""
    wanted = pooled(mask.astype(np.float32))
    cells, _ = masks.to_latents(mask.astype(np.float32), FACTOR, keep_thin=True)
    found = nearest(mask.astype(np.float32))
    assert (cells >= found).all()
    assert (cells <= wanted).all()
    reach = np.pad(cells, 1)
    near = np.max([reach[dy : dy + 5, dx : dx + 6] for dy in range(3) for dx in range(3)], axis=0)
    assert (near >= wanted).all()


@given(offsets, offsets, st.integers(2 * FACTOR, SIDE), st.integers(2 * FACTOR, SIDE))
def test_a_box_of_two_cells_or_more_follows_nearest_exactly(top: int, left: int, height: int, width: int) -> None:
    """Guards parity with diffusers where there is nothing thin to save; boxes may run out of the picture."""
    mask = blank()
    top, left = min(top, SIDE - 2 * FACTOR), min(left, SIDE - 2 * FACTOR)
    mask[top : top + height, left : left + width] = WHITE
    cells, lost = masks.to_latents(mask, FACTOR, keep_thin=True)
    np.testing.assert_array_equal(cells, nearest(mask))
    assert lost == 0


def ellipse(y: float, x: float, long: float, short: float, turn: float) -> npt.NDArray[np.float32]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    along = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
    across = (columns - x) * np.sin(turn) - (rows - y) * np.cos(turn)
    return ((along / long) ** 2 + (across / short) ** 2 <= 1).astype(np.float32)


centres = st.floats(SIDE / 4, SIDE * 3 / 4)


@given(centres, centres, st.floats(FACTOR, 40), st.floats(1, 1.4), st.floats(0, np.pi))
def test_a_round_shape_of_two_cells_or_more_follows_nearest_exactly(
    y: float, x: float, short: float, stretch: float, turn: float
) -> None:
    """Guards parity for blobs, whatever way they lie on the grid."""
    mask = ellipse(y, x, short * stretch, short, turn)
    cells, lost = masks.to_latents(mask, FACTOR, keep_thin=True)
    np.testing.assert_array_equal(cells, nearest(mask))
    assert lost == 0


@given(centres, centres, st.floats(FACTOR, 16), st.floats(1, 4), st.floats(0, np.pi))
def test_a_long_ellipse_gains_no_more_than_its_two_tips(
    y: float, x: float, short: float, stretch: float, turn: float
) -> None:
    """Guards the one exception: a tip is a thin stroke, and survives as one."""
    mask = ellipse(y, x, short * stretch, short, turn)
    cells, lost = masks.to_latents(mask, FACTOR, keep_thin=True)
    assert lost == int((cells - nearest(mask)).sum())
    assert lost <= 2


@pytest.mark.parametrize("keep_thin", [True, False])
def test_what_nearest_loses_is_counted_either_way(keep_thin: bool) -> None:
    """Guards the warning that tells a user why nothing was repainted."""
    mask = blank()
    mask[3, :] = WHITE
    cells, lost = masks.to_latents(mask, FACTOR, keep_thin)
    assert lost == CELLS
    assert cells.sum() == (CELLS if keep_thin else 0)


def test_full_and_empty_masks_stay_what_they_are() -> None:
    """Guards the two ends."""
    for mask in (blank(), blank() + WHITE):
        cells, lost = masks.to_latents(mask, FACTOR, keep_thin=True)
        assert (cells == mask[0, 0]).all()
        assert lost == 0


def test_every_vae_factor_keeps_its_grid() -> None:
    """Guards against an eight in the code: small VAEs have 2 or 4 pixels a latent, and 1 is the identity."""
    mask = (np.random.default_rng(0).random((32, 64)) < 0.5).astype(np.float32)
    for factor in (1, 2, 4, 8, 16, 32):
        cells, _ = masks.to_latents(mask, factor, keep_thin=False)
        np.testing.assert_array_equal(cells, mask[::factor, ::factor])


# Feather


@given(small_masks)
def test_a_feather_of_zero_is_the_mask(mask: npt.NDArray[np.uint8]) -> None:
    """Guards the default: soft masks are composited as they are, to the level."""
    np.testing.assert_array_equal(masks.feather(mask, 0), mask)


@given(small_masks, st.integers(1, 256))
def test_a_feather_never_reaches_outside_nor_above_the_mask(mask: npt.NDArray[np.uint8], width: int) -> None:
    """Guards the law of the mask: a soft edge that bleeds outwards is the most-filed complaint of this field."""
    soft = masks.feather(mask, width)
    assert soft.dtype == np.uint8
    assert (soft[mask == 0] == 0).all()
    assert (soft <= mask).all()


@given(small_masks, st.integers(1, 20))
def test_a_wider_feather_is_nowhere_stronger(mask: npt.NDArray[np.uint8], width: int) -> None:
    """Guards monotony in the width."""
    assert (masks.feather(mask, width + 1) <= masks.feather(mask, width)).all()


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_a_feather_climbs_evenly_to_the_masks_value(width: int) -> None:
    """Guards monotony in the depth: width steps up, then the whole value; measured in king's moves from the edge."""
    mask = np.zeros((48, 48), np.uint8)
    mask[4:44, 4:44] = 200
    soft = masks.feather(mask, width).astype(int)
    climb = soft[24, 4 : 4 + width + 1]
    np.testing.assert_allclose(climb, 200 * np.arange(1, width + 2) / (width + 1), atol=0.5)
    assert (soft[4 + width : 44 - width, 4 + width : 44 - width] == 200).all()
    depth = np.minimum.reduce([np.arange(40)[:, None] + 0 * np.arange(40), 0 * np.arange(40)[:, None] + np.arange(40)])
    depth = np.minimum(depth, depth[::-1, ::-1])
    np.testing.assert_array_equal(soft[4:44, 4:44], climb[np.minimum(depth, width)])


def test_the_border_of_the_picture_is_no_edge() -> None:
    """Guards against a frame of the old picture around a full mask."""
    full = np.full((9, 13), 255, np.uint8)
    np.testing.assert_array_equal(masks.feather(full, 4), full)


# Compositing


@pytest.mark.parametrize("original", [0, 1, 100, 127, 128, 254, 255])
def test_compositing_is_the_rounded_blend(original: int) -> None:
    """Guards the integer formula against the one in floats, at every painted level and every alpha; ties cannot occur,
    255 being odd."""
    painted, alpha = (levels.astype(np.uint8) for levels in np.mgrid[:256, :256])
    result = composite.composite(np.full((256, 256, 3), original, np.uint8), np.stack([painted] * 3, axis=2), alpha)
    assert result.dtype == np.uint8
    blend = (original * (255.0 - alpha) + painted * alpha.astype(np.float64)) / 255
    np.testing.assert_array_equal(result, np.stack([np.rint(blend)] * 3, axis=2))


def test_compositing_keeps_both_ends_to_the_byte() -> None:
    """Guards every level at once: alpha 0 is the original, 255 the painting."""
    levels = np.arange(256, dtype=np.uint8)
    original = np.stack(np.broadcast_arrays(levels[:, None], levels[:, None], levels[None, :]), axis=2)
    painted = np.ascontiguousarray(original.transpose(1, 0, 2)[::-1])
    for alpha, expected in ((0, original), (255, painted)):
        result = composite.composite(original, painted, np.full((256, 256), alpha, np.uint8))
        np.testing.assert_array_equal(result, expected)


# What the report says


def test_coverage_counts_what_the_network_repaints() -> None:
    """Guards the percentage against counting soft pixels that stay."""
    mask = np.array([[0, 127, 128, 255]], np.uint8)
    assert composite.coverage_pct(mask) == 50.0
    assert composite.coverage_pct(np.full((1, 3), 255, np.uint8)) == 100.0


def test_changed_outside_counts_pixels_not_channels_and_only_where_the_mask_is_zero() -> None:
    """Guards the count that is always 0: it has to see a change when there is one."""
    original = np.zeros((2, 2, 3), np.uint8)
    output = original.copy()
    output[0, 0] = 9  # outside: one pixel, three channels
    output[0, 1] = 9  # under a soft edge
    output[1, 1] = 9  # inside
    mask = np.array([[0, 1], [0, 255]], np.uint8)
    assert composite.changed_outside(original, output, mask) == 1
    assert composite.changed_outside(original, original, mask) == 0
