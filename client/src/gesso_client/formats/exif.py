"""The orientation of a picture, from its EXIF block or its XMP; a damaged one says nothing."""

from __future__ import annotations

import re
import struct

ORIENTATION = 0x0112
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


def orientation(exif: object, xmp: object) -> int:
    """1 to 8 as EXIF counts; 1 where neither says anything that can be read. The EXIF block goes before."""
    found = _of_exif(exif) if isinstance(exif, bytes) else None
    if found is None and isinstance(xmp, bytes):
        said = _XMP.search(xmp)
        found = int(said[1]) if said else None
    return found or 1


def _of_exif(block: bytes) -> int | None:
    tiff = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "")
    try:
        (position,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, position)
        for entry in range(position + 2, position + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == ORIENTATION and kind in _TYPES:
                (value,) = struct.unpack_from(order + _TYPES[kind], tiff, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None
