"""What the caller gave, as this client decoded it, and what every picture that comes back is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from gesso_client.errors import DamagedPicture
from gesso_client.pictures import Pixels
from gesso_client.piece import Piece

ROWS = 256  # compared at once


def sha256(levels: npt.NDArray[np.uint8]) -> str:
    """Of the array's bytes in C order; 64 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(levels).data).hexdigest()


@dataclass(frozen=True, eq=False)
class Original:
    """The picture that was given, none for text-to-image, and the size of what comes back."""

    height: int  # of what travels: the picture, or the piece of it
    width: int
    image: Pixels | None = None  # [H, W, 3], read-only
    repaint: Pixels | None = None  # [H, W]; where it is 0, the picture is kept
    piece: Piece | None = None  # that was sent in place of the whole
    preview_size: int | None = None  # longest side; None: the server's business
    _reduced: dict[tuple[int, int], PILImage.Image] = field(default_factory=dict, repr=False)

    def certified(self, pixels: Pixels, report: Mapping[str, Any]) -> tuple[Pixels, int | None]:
        """A picture that came back, whole, and how many of its pixels differ where the mask keeps: 0, None: no mask.

        pixels: [h, w, 3], of the piece where one was sent. Raises DamagedPicture, for any difference, another size, and
        bytes that are not those the report has the digest of.
        """
        if pixels.shape != (self.height, self.width, 3):
            found, wanted = f"{pixels.shape[1]}x{pixels.shape[0]}", f"{self.width}x{self.height}"
            raise DamagedPicture(f"the picture that came back is {found}, not {wanted}", "image")
        digest = report.get("image_sha256")
        if digest is not None and digest != sha256(pixels):
            raise DamagedPicture("the picture arrived damaged: its bytes are not those the server sent", "image")
        if self.image is None or self.repaint is None:
            return pixels, None
        image, repaint = (array if self.piece is None else self.piece.of(array) for array in (self.image, self.repaint))
        changed = 0
        for top in range(0, self.height, ROWS):
            rows = slice(top, top + ROWS)
            changed += int(((pixels[rows] != image[rows]).any(axis=2) & (repaint[rows] == 0)).sum())
        if changed:
            raise DamagedPicture(f"{changed} pixels outside the mask came back changed", "image")
        return self._whole(pixels), changed

    def preview(self, pixels: Pixels) -> PILImage.Image:
        """A preview that came back, of the whole picture where a piece was sent."""
        preview = PILImage.fromarray(pixels)
        if self.piece is None or self.image is None:
            return preview
        piece, (height, width) = self.piece, self.image.shape[:2]
        scale = min(1.0, (self.preview_size or max(preview.size)) / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if size not in self._reduced:  # one for all the previews of a request
            self._reduced[size] = PILImage.fromarray(self.image).resize(size, PILImage.Resampling.BOX)
        whole = self._reduced[size].copy()
        left, top = round(piece.left * scale), round(piece.top * scale)
        right, bottom = round((piece.left + piece.width) * scale), round((piece.top + piece.height) * scale)
        size = max(1, right - left), max(1, bottom - top)
        whole.paste(preview.resize(size, PILImage.Resampling.BILINEAR), (left, top))
        return whole

    def _whole(self, pixels: Pixels) -> Pixels:
        if self.piece is None or self.image is None:
            return pixels
        whole = self.image.copy()
        self.piece.of(whole)[:] = pixels
        return whole
