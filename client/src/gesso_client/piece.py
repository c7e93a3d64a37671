"""The piece of a large picture that has to travel: what certainly holds the part that the server works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gesso_client.models import ModelInfo
from gesso_client.pictures import Pixels

WHOLE_IMAGE = -1  # padding_mask_crop
WORTH = 4_000_000  # pixels that a piece must save to be sent where the whole could be, too


@dataclass(frozen=True)
class Piece:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Pixels) -> Pixels:
        """That part of a picture [H, W] or [H, W, 3]; a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def surroundings(repaint: Pixels, info: ModelInfo, padding_mask_crop: int | None) -> Piece | None:
    """The mask with all around it that any crop by the rule of docs/api.md can reach; None: the whole picture.

    repaint: [H, W], above 0 where it is repainted. The crop holds some part of that and so much context, or is grown to
    the model's native side, and then to its size multiple. At the picture's border it is moved inside, by no more.
    """
    height, width = repaint.shape
    if padding_mask_crop == WHOLE_IMAGE or (padding_mask_crop is None and height * width <= info.native_size**2):
        return None
    reach = (info.native_size if padding_mask_crop is None else padding_mask_crop) + 2 * info.size_multiple
    (top, bottom), (left, right) = (_span(repaint.any(axis=axis), reach) for axis in (1, 0))
    if (bottom - top, right - left) == (height, width):
        return None
    return Piece(top, left, bottom - top, right - left)


def _span(touched: npt.NDArray[np.bool_], reach: int) -> tuple[int, int]:
    places = np.flatnonzero(touched)
    return max(int(places[0]) - reach, 0), min(int(places[-1]) + 1 + reach, len(touched))
