"""Pictures in, 8-bit sRGB arrays out: one rule for every kind of file.

A picture is a PIL image, a numpy array (uint8 [H,W], [H,W,3] or [H,W,4]; bool [H,W] for a mask), a path, or the bytes
of a file. In this order:

1.  The EXIF orientation is applied; of several frames the first counts.
2.  16-bit levels become 8-bit by dividing by 257 and rounding (65535 -> 255). Pillow itself reads 16-bit *colour* files
    by their high byte. Floating point and 32-bit levels are refused: their range is anybody's guess.
3.  Palettes are looked up, and grey is repeated in three channels.
4.  An embedded ICC profile other than sRGB is converted to sRGB; one that is broken or does not fit the picture is
    ignored. CMYK without a profile is converted by Pillow's formula.
5.  Transparency is composited over white. When the alpha *is* the mask, it is dropped instead, so that what lies under
    it is kept.

A mask takes steps 1-3 and becomes one channel (255 repaint, 0 keep) by luminance; its levels are data, not colour, so
no profile is applied. Transparency in a mask says nothing by itself: `alpha_means` gives it a meaning by name.
"repaint": opaque is repainted. "keep": opaque is kept, and the holes are repainted.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from gesso_client.errors import InvalidRequest

Picture = PILImage.Image | npt.NDArray[Any] | str | os.PathLike[str] | bytes
Pixels = npt.NDArray[np.uint8]
AlphaMeans = Literal["repaint", "keep"]

MASK_THRESHOLD = 127  # of a resized mask; above it is repainted
LEVELS_16_TO_8 = 257  # 65535 / 255

# What Pillow's decoders raise on a damaged file; DecompressionBombError is a plain Exception of its own.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error)


def open_picture(picture: object, field: str) -> PILImage.Image:
    """Decode a Picture and turn it upright. Raises InvalidRequest naming `field`, for what is no Picture too."""
    if isinstance(picture, np.ndarray):
        return _from_array(picture, field)
    if isinstance(picture, str | os.PathLike):
        try:
            picture = Path(picture).read_bytes()
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"cannot read {os.fspath(picture)!r}: {_reason(error)}", field) from error
    try:
        if isinstance(picture, bytes | bytearray | memoryview):
            picture = PILImage.open(io.BytesIO(picture))
        if not isinstance(picture, PILImage.Image):
            kind = type(picture).__name__
            raise InvalidRequest(f"expected a PIL image, an array, a path or bytes, found {kind}", field)
        _check_size(picture, field)
        picture.load()
        return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        raise InvalidRequest("is not a picture in a format Pillow reads", field) from error
    except (PILImage.DecompressionBombError, MemoryError) as error:
        raise InvalidRequest(f"is too large: {error}", field) from error
    except _DAMAGED as error:
        raise InvalidRequest(f"cannot be decoded: {_reason(error)}", field) from error


def image_pixels(picture: PILImage.Image, *, drop_alpha: bool = False) -> Pixels:
    """[H, W, 3] sRGB of an opened picture. drop_alpha: keep the colours under the alpha instead of compositing them."""
    colours, alpha = _split(picture, "image")
    try:
        rgb = _to_srgb(colours, picture.info.get("icc_profile"))
    except _DAMAGED as error:
        raise InvalidRequest(f"mode {picture.mode} cannot be turned into RGB: {_reason(error)}", "image") from error
    if alpha is not None and not drop_alpha:
        rgb = PILImage.composite(rgb, PILImage.new("RGB", rgb.size, "white"), alpha)
    return np.array(rgb)


def mask_pixels(
    picture: PILImage.Image, size: tuple[int, int], *, alpha_means: AlphaMeans | None = None, fit: bool = False
) -> Pixels:
    """[H, W] of an opened mask, or of an opened picture whose alpha is the mask.

    size: (width, height) of the image. fit: resize a mask of another size (Lanczos, then a threshold at 127).
    Raises InvalidRequest: another size without `fit`, transparency without `alpha_means`, or the other way round.
    """
    levels, alpha = _split(picture, "mask_image")
    if alpha_means is not None:
        if alpha_means not in get_args(AlphaMeans):
            raise InvalidRequest(f"{alpha_means!r} is not one of {', '.join(get_args(AlphaMeans))}", "alpha_means")
        if alpha is None:
            raise InvalidRequest("has no alpha channel for alpha_means to read", "mask_image")
        levels = alpha if alpha_means == "repaint" else ImageChops.invert(alpha)
    elif alpha is not None and np.asarray(alpha).min() < 255:
        raise InvalidRequest("is transparent in places; say alpha_means='repaint' or alpha_means='keep'", "mask_image")
    levels = levels if levels.mode == "L" else levels.convert("RGB").convert("L")
    if levels.size == size:
        return np.array(levels)
    if not fit:
        found, wanted = (f"{width}x{height}" for width, height in (levels.size, size))
        raise InvalidRequest(f"is {found}, the image is {wanted}; fit_mask=True resizes it", "mask_image")
    resized = np.asarray(levels.resize(size, PILImage.Resampling.LANCZOS))
    return np.where(resized > MASK_THRESHOLD, 255, 0).astype(np.uint8)


def _from_array(array: npt.NDArray[Any], field: str) -> PILImage.Image:
    if field == "mask_image" and array.dtype == np.bool_:
        array = np.where(array, 255, 0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InvalidRequest(f"expected an array of uint8 (0..255), found {array.dtype}", field)
    elif field == "mask_image" and array.size and array.max() == 1:
        raise InvalidRequest("holds only 0 and 1; pass an array of bool, or of 0 and 255", field)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InvalidRequest(f"expected shape [H, W], [H, W, 3] or [H, W, 4], found {list(array.shape)}", field)
    if array.size == 0:
        raise InvalidRequest(f"has no pixel: shape {list(array.shape)}", field)
    return PILImage.fromarray(np.ascontiguousarray(array))


def _check_size(picture: PILImage.Image, field: str) -> None:
    """Pillow only warns up to twice its own limit; here the limit is the limit."""
    pixels, limit = picture.width * picture.height, PILImage.MAX_IMAGE_PIXELS
    if pixels == 0:
        raise InvalidRequest(f"has no pixel: {picture.width}x{picture.height}", field)
    if limit is not None and pixels > limit:
        raise InvalidRequest(f"is too large: {pixels} pixels, PIL.Image.MAX_IMAGE_PIXELS is {limit}", field)


def _split(picture: PILImage.Image, field: str) -> tuple[PILImage.Image, PILImage.Image | None]:
    """The picture without transparency in an 8-bit mode, and its alpha (mode L) or None."""
    if picture.mode == "F":
        raise InvalidRequest("holds floating point levels; save it with 8 or 16 bits", field)
    if picture.mode.startswith("I"):
        return _from_16_bits(picture, field), None
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        # A grey picture stays grey, so that a grey ICC profile still fits it.
        return picture.convert("L") if picture.mode in ("L", "LA", "La") else rgba.convert("RGB"), alpha
    direct = picture.mode in ("L", "RGB", "CMYK", "YCbCr", "LAB", "HSV")
    return picture if direct else picture.convert("L" if picture.mode == "1" else "RGB"), None


def _from_16_bits(picture: PILImage.Image, field: str) -> PILImage.Image:
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise InvalidRequest("holds 32-bit levels; save it with 8 or 16 bits", field)
    return PILImage.fromarray(((levels + LEVELS_16_TO_8 // 2) // LEVELS_16_TO_8).astype(np.uint8))


def _to_srgb(picture: PILImage.Image, icc_profile: bytes | None) -> PILImage.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)) if icc_profile else None
        # A profile that is sRGB already would only add a rounding error to every level.
        if profile is not None and "sRGB" not in ImageCms.getProfileDescription(profile):
            converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        pass  # a broken or unfitting profile: the picture is read as if it had none
    return picture.convert("RGB")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
