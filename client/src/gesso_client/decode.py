"""Files, and PIL pictures of whatever state, to decoded pictures that are nobody else's, upright."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage
from PIL import ImageFile, UnidentifiedImageError

from gesso_client import formats
from gesso_client.errors import InvalidRequest
from gesso_client.formats import exif, png, tiff

# A PIL picture reads and decodes its file when it is first looked at, and is not made for two threads doing so at once
# (python-pillow/Pillow#4848). Two pictures may share a file: one lock for all.
READING = threading.Lock()

LAZY = ("PNG", "JPEG", "MPO", "WEBP", "TIFF")  # Pillow's names of what is decoded here when its owner has not done so

# What Pillow's decoders raise on a damaged file, and what a warning is that somebody has made an error.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error),
    *(AssertionError, AttributeError, OverflowError, ZeroDivisionError, Warning),
)

# By EXIF orientation.
_UPRIGHT = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Encoded:
    """A file's bytes, and its name where it has one."""

    data: bytes
    name: str = ""


@dataclass(frozen=True)
class Opened:
    """A decoded picture, upright. `picture.info` has what its metadata said, under Pillow's names."""

    picture: PILImage.Image
    stored: tuple[int, int]  # (width, height) before it was turned upright

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.picture.size


def opened(file: Encoded, field: str) -> Opened:
    """Decode a file. Raises InvalidRequest naming `field`."""
    with _refusing(field):
        bare = formats.bare(file.data, file.name)
        picture: Any = PILImage.open(io.BytesIO(bare.data), formats=[bare.kind])
        check_size(picture, field)
        info = {**picture.info, **bare.info}
        stored, turn = picture.size, exif.orientation(info.get("exif"), info.get("xmp"))
        if bare.kind == "TIFF":
            stored, turn = (picture.tag_v2[256], picture.tag_v2[257]), picture.tag_v2.get(exif.ORIENTATION, turn)
            info = {"exif": _described(picture), **info}
            picture.load_end = lambda: None  # turns it upright, by metadata that may be damaged
        picture.load()
        if bare.kind == "PNG":
            png.check_whole(bare.data, picture)
        levels = tiff.levels(picture, picture.tag_v2) if bare.kind == "TIFF" else picture
        turned = levels.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else levels
        turned.info = info
        return Opened(turned, stored)


def from_pil(picture: PILImage.Image, field: str) -> Opened:
    """A copy of somebody's picture, which is decoded, if it was not, as by looking at it. Raises InvalidRequest."""
    check_size(picture, field)
    with READING:
        file, info = None, dict[Any, Any](picture.info)
        if _is_pending(picture):
            if picture.format not in LAZY:
                advice = "call its load() first, if you trust it"
                raise InvalidRequest(f"is a {picture.format} that was not decoded yet; {advice}", field)
            file = _file_of(picture)
            if file is not None:
                with _refusing(field):
                    said = formats.bare(file.data, file.name).info  # Pillow does not look at all checksums
                info |= {name: said[name] for name in ("cicp", "transparency") if name in said}
        stored, tile = picture.size, getattr(picture, "tile", [])
        try:
            picture.load()
        except Exception as error:  # of a decoder that may be anybody's
            picture.tile = tile  # type: ignore[attr-defined]  # Pillow would call half a picture a whole one from now on
            if file is not None:  # perhaps it is only the metadata behind the pixels
                return opened(file, field)
            if "closed" in str(error) or getattr(picture, "fp", None) is None:
                advice = "hand it over before you close it, or give its path"
                raise InvalidRequest(f"is a PIL picture that was closed; {advice}", field) from error
            raise InvalidRequest(f"cannot be decoded: {reason(error)}", field) from error
        turn = _orientation(picture)
        own = picture.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else picture.copy()
        with _refusing(field):
            if file is not None and picture.format == "PNG":
                png.check_whole(file.data, picture)
            own = tiff.levels(own, picture.tag_v2) if picture.format == "TIFF" else own  # type: ignore[attr-defined]
        own.info = {**info, **{name: value for name, value in picture.info.items() if name not in info}}
        return Opened(own, stored)


@contextlib.contextmanager
def _refusing(field: str) -> Iterator[None]:
    """What decoders raise, as InvalidRequest."""
    try:
        yield
    except formats.UnknownFormat as error:
        raise InvalidRequest(str(error), field) from error
    except UnidentifiedImageError as error:
        raise InvalidRequest("cannot be decoded: its header is damaged", field) from error
    except (PILImage.DecompressionBombError, MemoryError) as error:
        raise InvalidRequest(f"is too large: {reason(error)}", field) from error
    except DAMAGED as error:
        raise InvalidRequest(f"cannot be decoded: {reason(error)}", field) from error


def check_size(picture: PILImage.Image, field: str) -> None:
    """Pillow only warns up to twice its own limit; here the limit is the limit. Raises InvalidRequest."""
    pixels, limit = picture.width * picture.height, PILImage.MAX_IMAGE_PIXELS
    if pixels == 0:
        raise InvalidRequest(f"has no pixel: {picture.width}x{picture.height}", field)
    if limit is not None and pixels > limit:
        raise InvalidRequest(f"is too large: {pixels} pixels, PIL.Image.MAX_IMAGE_PIXELS is {limit}", field)


def reason(error: BaseException) -> str:
    """What happened, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _is_pending(picture: PILImage.Image) -> bool:
    """Whether it was opened and not decoded."""
    own = vars(picture)
    levels = own.get("_im", own.get("im"))  # Pillow 11.1 renamed it
    return isinstance(picture, ImageFile.ImageFile) and (levels is None or bool(own.get("tile")))


def _file_of(picture: Any) -> Encoded | None:
    """What it was opened from; None when that is gone, or when it stands at another frame or a draft of it."""
    with contextlib.suppress(Exception):
        if picture.tell() == 0 and not picture.decoderconfig:
            position = picture.fp.tell()
            picture.fp.seek(0)
            data = picture.fp.read()
            picture.fp.seek(position)
            return Encoded(bytes(data), f"its.{picture.format}")
    return None


def _described(tiff: Any) -> bytes:
    """The EXIF block of a TIFF: its directory, without what its levels are read by."""
    with contextlib.suppress(Exception):
        block: PILImage.Exif = tiff.getexif()
        for tag in exif.STRUCTURE:
            block.pop(tag, None)
        return block.tobytes()
    return b""


def _orientation(picture: PILImage.Image) -> int:
    try:
        return int(picture.getexif().get(exif.ORIENTATION, 1))
    except Exception:
        return exif.orientation(picture.info.get("exif"), picture.info.get("xmp"))
