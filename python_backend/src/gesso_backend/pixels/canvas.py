"""The canvas: the part of the picture a request works on, and the size it works at.

Any size goes in and the same size comes out. Three things can happen on the way, each undone afterwards:
crop (only the surroundings of the mask), scale (what is too large for the model) and pad (up to the size multiple).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gesso_backend.arrays import Floats, Pixels
from gesso_backend.model.bundle import SizeSpec

WHOLE_IMAGE = -1  # padding_mask_crop


@dataclass(frozen=True)
class Canvas:
    """A crop box of the original, and the size it is scaled and then padded to. All in pixels."""

    top: int
    left: int
    height: int  # of the crop
    width: int
    scaled_height: int  # of the crop as the network sees it
    scaled_width: int
    work_height: int  # scaled, padded to the size multiple
    work_width: int

    def moved(self, top: int, left: int) -> Canvas:
        """The same in a picture whose corner lies at (top, left) of this one's."""
        return replace(self, top=self.top - top, left=self.left - left)

    def crop(self, picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The crop box of a picture [H, W] or [H, W, 3]; a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]

    def borders(self, height: int, width: int) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
        """Whether its top and bottom, and its left and right, lie at the border of a picture [height, width]."""
        bottom, right = self.top + self.height, self.left + self.width
        return (self.top == 0, bottom == height), (self.left == 0, right == width)

    def cut(self, picture: Pixels) -> Pixels:
        """The picture as the network sees it: cropped, scaled (Lanczos) and padded by reflection."""
        return self._pad(_resize(self.crop(picture), self.scaled_height, self.scaled_width))

    def cut_mask(self, repaint: Floats) -> Floats:
        """A binary mask [H, W] as the network sees it. Scaled down, a cell that a stroke only touches is repainted."""
        mask = self.crop(repaint)
        if mask.shape != (self.scaled_height, self.scaled_width):
            size = (self.scaled_width, self.scaled_height)
            # In floats: in bytes, one pixel's share of a cell of more than 510 pixels rounds to nothing.
            scaled = np.array(Image.fromarray(mask).resize(size, Image.Resampling.BOX))
            # A pixel whose centre lies on the border of two cells can fall into neither.
            (rows, top), (columns, left) = (_cells(*sides) for sides in zip(mask.shape, scaled.shape, strict=True))
            held = np.maximum.reduceat(np.maximum.reduceat(mask, top, axis=0), left, axis=1)
            scaled[np.ix_(rows, columns)] += held
            mask = scaled
        return (self._pad(mask) > 0).astype(np.float32)

    def uncut(self, work: Pixels) -> Pixels:
        """The network's picture [work_height, work_width, 3] back at the size of the crop box."""
        return _resize(work[: self.scaled_height, : self.scaled_width], self.height, self.width)

    def _pad(self, scaled: npt.NDArray[Any]) -> npt.NDArray[Any]:
        pad = [(0, self.work_height - self.scaled_height), (0, self.work_width - self.scaled_width)]
        return np.pad(scaled, pad + [(0, 0)] * (scaled.ndim - 2), mode="reflect")


def choose(
    height: int,
    width: int,
    mask: Pixels | npt.NDArray[np.bool_] | None,
    size: SizeSpec,
    padding_mask_crop: int | None,
    offset: tuple[int, ...] = (0, 0),
) -> Canvas:
    """Decide the canvas of a picture [height, width].

    mask: of the picture or, at `offset` in it, of a piece that holds all of the mask; above 0 is in the crop.
    padding_mask_crop: pixels of context around the mask, and no more than that; -1 the whole picture; None automatic:
    the mask with a quarter of the native side around it, grown with real context to the native size, below which a
    model paints worse (docs/benchmarks.md).
    A crop that is still too large (max_pixels; for automatic crops twice the native square) is scaled down.
    """
    automatic = padding_mask_crop is None
    if mask is None or padding_mask_crop == WHOLE_IMAGE or (automatic and height * width <= size.native**2):
        return _fit(0, 0, height, width, size.multiple, size.max_pixels)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin, least = (size.native // 4, size.native) if padding_mask_crop is None else (padding_mask_crop, 1)
    rows, columns = rows + offset[0], columns + offset[1]
    top, bottom = _span(int(rows[0]), int(rows[-1]) + 1, margin, least, size.multiple, height)
    left, right = _span(int(columns[0]), int(columns[-1]) + 1, margin, least, size.multiple, width)
    limit = min(2 * size.native**2, size.max_pixels) if automatic else size.max_pixels
    return _fit(top, left, bottom - top, right - left, size.multiple, limit)


def _span(low: int, high: int, margin: int, least: int, multiple: int, limit: int) -> tuple[int, int]:
    """[low, high) with its margin, grown to `least` and to a multiple, moved inside [0, limit)."""
    low, high = max(low - margin, 0), min(high + margin, limit)
    length = min(math.ceil(max(high - low, least) / multiple) * multiple, limit)
    start = min(max((low + high - length) // 2, 0), limit - length)
    return start, start + length


def _fit(top: int, left: int, height: int, width: int, multiple: int, max_pixels: int) -> Canvas:
    """Scale down to max_pixels if need be, then pad to the multiple."""

    def up(side: int) -> int:
        return math.ceil(side / multiple) * multiple

    if up(height) * up(width) <= max_pixels:
        return Canvas(top, left, height, width, height, width, up(height), up(width))
    scale = math.sqrt(max_pixels / (height * width))
    longest = max_pixels // multiple**2 * multiple  # a strip one multiple wide
    scaled_height = min(max(int(height * scale) // multiple * multiple, multiple), longest)
    scaled_width = min(max(int(width * scale) // multiple * multiple, multiple), longest)
    return Canvas(top, left, height, width, scaled_height, scaled_width, scaled_height, scaled_width)


def _cells(pixels: int, cells: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The cells of a side that hold a pixel's centre, and the first pixel of each."""
    found, first = np.unique((2 * np.arange(pixels) + 1) * cells // (2 * pixels), return_index=True)
    return found, first


def _resize(picture: Pixels, height: int, width: int) -> Pixels:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.LANCZOS))
