"""What the file of a picture keeps of the file it was made from: its transparency, its colour profile and its EXIF.

A server sees sRGB over white. In the file that is written, what was kept has the levels and the transparency it had,
and what was repainted is opaque and in the same colour space.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from gesso_client.formats import exif
from gesso_client.output import Format
from gesso_client.pictures import REPAINT, Pixels, image_pixels, split
from gesso_client.profile import from_srgb
from gesso_client.request import Options
from gesso_client.source import Taken, open_picture
from gesso_client.upload import decoded

MOST_EXIF = 65_533  # bytes of a JPEG's segment


@dataclass(frozen=True, eq=False)
class Kept:
    """What is not repainted, where that is not simply what came back."""

    sent: Pixels  # [H, W, 3], as the server saw it
    own: Pixels  # [H, W, 3], as the file has it
    repaint: Pixels  # [H, W]
    alpha: Pixels | None  # [H, W]


@dataclass(frozen=True, eq=False)
class Extras:
    kept: Kept | None = None
    icc_profile: bytes | None = None  # of RGB
    exif: bytes = b""

    @property
    def transparent(self) -> bool:
        return self.kept is not None and self.kept.alpha is not None

    @classmethod
    def of(cls, image: Taken, mask: Taken | None, options: Options, *, inpaint: bool) -> Extras:
        """Of a picture that is going to be inpainted, or varied as a whole. Raises InvalidRequest."""
        opened = open_picture(image, "image")
        info = opened.picture.info
        colours, alpha = split(opened.picture, "image")
        icc = info.get("icc_profile")
        if not icc or colours.mode != "RGB" or from_srgb(PILImage.new("RGB", (1, 1)), icc) is None:
            icc = None
        found = cls(None, icc, exif.upright(info.get("exif"), opened.size))
        if mask is None or alpha is None or np.asarray(alpha).min() == 255:
            alpha = None  # there is none, or it is the mask
        if not inpaint or (icc is None and alpha is None):
            return found
        invert = bool(options.get("mask_invert"))
        sent, _, repaint = decoded(image, mask, options.get("alpha_means"), bool(options.get("fit_mask")), invert)
        own = np.array(colours) if icc else image_pixels(opened, drop_alpha=True)
        return cls(Kept(sent, own, repaint, None if alpha is None else np.array(alpha)), icc, found.exif)

    def on(self, picture: PILImage.Image, kind: Format) -> tuple[PILImage.Image, dict[str, Any]]:
        """The picture as it is written, and the rest of the file as Pillow's `save` takes it."""
        levels = picture if self.icc_profile is None else from_srgb(picture, self.icc_profile) or picture
        if self.kept is not None:
            kept = self.kept
            same = (kept.repaint < REPAINT) & (np.asarray(picture) == kept.sent).all(axis=2)
            pixels = np.where(same[:, :, None], kept.own, np.asarray(levels))
            if kept.alpha is not None:
                pixels = np.dstack([pixels, np.where(same, kept.alpha, np.uint8(255))])
            levels = PILImage.fromarray(pixels)
        metadata: dict[str, Any] = {} if self.icc_profile is None else {"icc_profile": self.icc_profile}
        if self.exif and not (kind.name == "JPEG" and len(self.exif) > MOST_EXIF):
            metadata["exif"] = _without_structure(self.exif) if kind.name == "TIFF" else self.exif
        return levels, metadata


NOTHING = Extras()


def _without_structure(block: bytes) -> PILImage.Exif:
    found = PILImage.Exif()
    with contextlib.suppress(Exception):  # damaged behind its directories
        found.load(block)
        for tag in exif.STRUCTURE:
            found.pop(tag, None)
    return found
