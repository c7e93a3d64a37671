"""Files of pictures, taken apart before a decoder sees them: their pixels go to it, and their metadata is read here.

So damage in what is not the picture (a text, an EXIF block, a profile, a checksum of any of them) is no reason to
refuse it, and no decoder is ever tried but those of PNG, JPEG, WebP, and TIFF where the file's name says so.
"""

from __future__ import annotations

from pathlib import PurePath

from gesso_client.formats import jpeg, png, webp
from gesso_client.formats.bare import Bare

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff")
TIFF_SUFFIXES = (".tif", ".tiff")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_OTHERS = {
    b"GIF8": "GIF", b"BM": "BMP", b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "PDF",
    b"8BPS": "Photoshop", b"<svg": "SVG", b"\xff\x0a": "JPEG XL",
}  # fmt: skip
_BOXES = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF"}  # behind ....ftyp


def bare(data: bytes, name: str = "") -> Bare:
    """The file without its metadata. name: the file's, empty where it has none.

    Raises ValueError or struct.error for a file of another format, and where what defines the pixels is cut or damaged.
    """
    if png.is_one(data):
        return png.bare(data)
    if jpeg.is_one(data):
        return jpeg.bare(data)
    if webp.is_one(data):
        return webp.bare(data)
    if not data.startswith(_TIFF):
        raise UnknownFormat(f"is not a picture of a kind that is read (PNG, JPEG, WebP, or TIFF by name){_found(data)}")
    if PurePath(name).suffix.lower() not in TIFF_SUFFIXES:
        raise UnknownFormat(f"is a TIFF, which is read only from a file named {' or '.join(TIFF_SUFFIXES)}")
    return Bare("TIFF", data, {})


class UnknownFormat(ValueError):
    """Nothing was tried. Its text is a sentence about the picture."""


def _found(data: bytes) -> str:
    kind = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)
    kind = kind or (_BOXES.get(data[8:12]) if data[4:8] == b"ftyp" else None)
    return f", it is {kind}" if kind else ", it is empty" if not data else ""
