"""Pictures in, 8-bit sRGB arrays out: one rule for every kind of picture.

A picture is a PIL image, an array or tensor (uint8 [H,W], [H,W,3] or [H,W,4]; bool [H,W] for a mask), a path, the bytes
of a file, or a file opened for reading. It is taken out of its caller's hands when a call begins: a PIL picture is read
under a lock, an array copied (source.py). Files are PNG, JPEG and WebP, and TIFF where their name ends in .tif or
.tiff; no other decoder is ever tried. Then, in this order:

1.  The EXIF orientation is applied; of several frames the first counts. Damaged metadata says nothing.
2.  16-bit levels become 8-bit by dividing by 257 and rounding (65535 -> 255). Pillow itself reads 16-bit *colour* files
    by their high byte. Floating point and 32-bit levels are refused: their range is anybody's guess. Of a TIFF, 12 bits
    are stretched to 16, and white that is 0 is turned round.
3.  Palettes are looked up, and grey is repeated in three channels.
4.  What is not sRGB is converted to it: by the ICC profile, else by a PNG's cICP, gAMA and cHRM (profile.py). A profile
    that is broken or does not fit the picture is ignored. CMYK without a profile is converted by Pillow's formula.
5.  Transparency is composited over white. When the alpha *is* the mask, it is dropped instead, so that what lies under
    it is kept.

A mask takes steps 1-3 and becomes one channel (255 repaint, 0 keep) by luminance; its levels are data, not colour, so
no profile is applied. Transparency in a mask says nothing by itself: `alpha_means` gives it a meaning by name.
"repaint": opaque is repainted. "keep": opaque is kept, and the holes are repainted.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageChops

from gesso_client.decode import DAMAGED, Opened, reason
from gesso_client.errors import InvalidRequest, shortened
from gesso_client.profile import to_srgb

Pixels = npt.NDArray[np.uint8]
AlphaMeans = Literal["repaint", "keep"]

REPAINT = 128  # the level from which the network repaints, see docs/api.md
MASK_THRESHOLD = 127  # of a resized mask; above it is repainted
LEVELS_16_TO_8 = 257  # 65535 / 255
MOST_OF_8_BITS = 255


def image_pixels(opened: Opened, *, drop_alpha: bool = False) -> Pixels:
    """[H, W, 3] sRGB of an opened picture. drop_alpha: keep the colours under the alpha instead of compositing them."""
    picture = opened.picture
    colours, alpha = split(picture, "image")
    try:
        rgb = to_srgb(colours, picture.info)
    except DAMAGED as error:
        raise InvalidRequest(f"mode {picture.mode} cannot be turned into RGB: {reason(error)}", "image") from error
    if alpha is not None and not drop_alpha:
        rgb = PILImage.composite(rgb, PILImage.new("RGB", rgb.size, "white"), alpha)
    return _frozen(np.array(rgb))


def mask_pixels(
    opened: Opened,
    size: tuple[int, int],
    *,
    alpha_means: AlphaMeans | None = None,
    fit: bool = False,
    stored: tuple[int, int] | None = None,
) -> Pixels:
    """[H, W] of an opened mask, or of an opened picture whose alpha is the mask.

    size: (width, height) of the image; stored: before it was turned upright.
    fit: resize a mask of another size (Lanczos, then a threshold at 127).
    Raises InvalidRequest: another size without `fit`, transparency without `alpha_means`, or the other way round.
    """
    levels, alpha = split(opened.picture, "mask_image")
    if alpha_means is not None:
        if alpha_means not in get_args(AlphaMeans):
            known = ", ".join(get_args(AlphaMeans))
            raise InvalidRequest(f"{shortened(alpha_means)} is not one of {known}", "alpha_means")
        if alpha is None:
            raise InvalidRequest("has no alpha channel for alpha_means to read", "mask_image")
        levels = alpha if alpha_means == "repaint" else ImageChops.invert(alpha)
    elif alpha is not None and np.asarray(alpha).min() < 255:
        raise InvalidRequest("is transparent in places; say alpha_means='repaint' or alpha_means='keep'", "mask_image")
    levels = levels if levels.mode == "L" else levels.convert("RGB").convert("L")
    if levels.size == size:
        return _frozen(np.array(levels))
    if not fit:
        found, wanted = (f"{width}x{height}" for width, height in (levels.size, size))
        advice = "; fit_mask=True resizes it"
        if stored is not None and stored != size and levels.size == stored:
            advice = " as its EXIF orientation turns it; turn the mask likewise"
        raise InvalidRequest(f"is {found}, the image is {wanted}{advice}", "mask_image")
    resized = np.asarray(levels.resize(size, PILImage.Resampling.LANCZOS))
    return _frozen(np.where(resized > MASK_THRESHOLD, 255, 0).astype(np.uint8))


def check_repaints(repaint: Pixels, mode: str) -> None:
    """Raises InvalidRequest for a mask that repaints nothing, and says why.

    repaint: [H, W], its levels, inverted if that was asked for. mode: Pillow's of the mask, empty where no matter.
    """
    highest = int(repaint.max())
    if highest >= REPAINT:
        return
    hint = "white (255) is repainted, black (0) kept"
    if highest == 1:
        hint = "as in a mask of 0 and 1; multiply it by 255"
    elif highest and mode not in ("", "1", "L"):
        kind = "palette's brightest colour" if mode == "P" else "brightest colour"
        hint = f"that is how bright its {kind} is; paint what is to be repainted white"
    found = f"is empty: its highest level is {highest}, and {REPAINT} or more is repainted"
    raise InvalidRequest(f"{found}; {hint}", "mask_image")


def _frozen(levels: Pixels) -> Pixels:
    levels.flags.writeable = False
    return levels


def split(picture: PILImage.Image, field: str) -> tuple[PILImage.Image, PILImage.Image | None]:
    """The picture without transparency in an 8-bit mode, and its alpha (mode L) or None. Raises InvalidRequest."""
    try:
        return _parts(picture, field)
    except DAMAGED as error:  # a palette that is missing, say
        raise InvalidRequest(f"mode {picture.mode} cannot be read: {reason(error)}", field) from error


def _parts(picture: PILImage.Image, field: str) -> tuple[PILImage.Image, PILImage.Image | None]:
    if picture.mode == "F":
        raise InvalidRequest("holds floating point levels; save it with 8 or 16 bits", field)
    if picture.mode.startswith("I"):
        return _from_16_bits(picture, field)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        # A grey picture stays grey, so that a grey ICC profile still fits it.
        return picture.convert("L") if picture.mode in ("1", "L", "LA", "La") else rgba.convert("RGB"), alpha
    direct = picture.mode in ("L", "RGB", "CMYK", "YCbCr", "LAB", "HSV")
    return picture if direct else picture.convert("L" if picture.mode == "1" else "RGB"), None


def _from_16_bits(picture: PILImage.Image, field: str) -> tuple[PILImage.Image, PILImage.Image | None]:
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise InvalidRequest("holds 32-bit levels; save it with 8 or 16 bits", field)
    if picture.mode == "I" and 0 < levels.max() <= MOST_OF_8_BITS:
        found = f"holds 32-bit levels, of which the highest is {levels.max()}"
        raise InvalidRequest(f"{found}; of 8 bits pass its convert('L'), of 16 its convert('I;16')", field)
    grey = PILImage.fromarray(((levels + LEVELS_16_TO_8 // 2) // LEVELS_16_TO_8).astype(np.uint8))
    transparent: Any = picture.info.get("transparency")  # one level, of 16 bits
    if not isinstance(transparent, int):
        return grey, None
    return grey, PILImage.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
