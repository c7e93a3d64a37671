"""The orientation of a picture, from its EXIF block or its XMP; a damaged one says nothing."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping

ORIENTATION = 0x0112
# Tags of the first directory that describe how a TIFF holds its levels, and its profile; elsewhere they say nothing.
STRUCTURE = (*range(0xFE, 0x104), 0x106, 0x10A, 0x111, 0x115, 0x116, 0x117, 0x11C, 0x13D, *range(0x140, 0x15C), 0x8773)
_HEADER = b"Exif\0\0"
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
_DETAILS = 0x8769  # where the block goes on
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_THUMBNAIL = ((0x0201, 0x0202), (0x0111, 0x0117))  # where it is and how long, by its kind
_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


def orientation(exif: object, xmp: object) -> int:
    """1 to 8 as EXIF counts; 1 where neither says anything that can be read. The EXIF block goes before."""
    found = _of_exif(exif) if isinstance(exif, bytes) else None
    if found is None and isinstance(xmp, bytes):
        said = _XMP.search(xmp)
        found = int(said[1]) if said else None
    return found or 1


def upright(block: object, size: tuple[int, int]) -> bytes:
    """The block for the picture turned upright: orientation 1, its size, no thumbnail; all else as it is.

    size: (width, height). Empty for a block that cannot be read.
    """
    tiff = bytearray(block.removeprefix(_HEADER)) if isinstance(block, bytes) else bytearray()
    order = _order(tiff)
    values = {ORIENTATION: 1} | dict.fromkeys(_WIDTHS, size[0]) | dict.fromkeys(_HEIGHTS, size[1])
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        details = _set(tiff, order, first, values).get(_DETAILS)
        if details is not None:
            _set(tiff, order, details, values)
        _drop_thumbnail(tiff, order, first)
    except struct.error:
        return b""
    return _HEADER + bytes(tiff)


def _set(tiff: bytearray, order: str, directory: int, values: Mapping[int, int]) -> dict[int, int]:
    """Set numbers of a directory, as far as it has them. What each of its entries holds, or where it is."""
    known = {}
    for tag, kind, entry in _entries(tiff, order, directory):
        (known[tag],) = struct.unpack_from(f"{order}I", tiff, entry + 8)
        if tag in values and kind in _TYPES:
            struct.pack_into(order + _TYPES[kind], tiff, entry + 8, values[tag])
    return known


def _drop_thumbnail(tiff: bytearray, order: str, first: int) -> None:
    (count,) = struct.unpack_from(f"{order}H", tiff, first)
    link = first + 2 + 12 * count
    (second,) = struct.unpack_from(f"{order}I", tiff, link) if link + 4 <= len(tiff) else (0,)
    if second:
        struct.pack_into(f"{order}I", tiff, link, 0)
        known = _set(tiff, order, second, {})
        for begin, length in ((known.get(place, 0), known.get(size, 0)) for place, size in _THUMBNAIL):
            end = min(begin + length, len(tiff))
            tiff[begin:end] = bytes(max(0, end - begin))


def _of_exif(block: bytes) -> int | None:
    tiff = block.removeprefix(_HEADER)
    order = _order(tiff)
    try:
        (position,) = struct.unpack_from(f"{order}I", tiff, 4)
        for tag, kind, entry in _entries(tiff, order, position):
            if tag == ORIENTATION and kind in _TYPES:
                (value,) = struct.unpack_from(order + _TYPES[kind], tiff, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        pass
    return None


def _order(tiff: bytes | bytearray) -> str:
    """Of its bytes, as struct has it."""
    return {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]), "")


def _entries(tiff: bytes | bytearray, order: str, position: int) -> Iterator[tuple[int, int, int]]:
    """Tag, type and place of each entry of a directory. Raises struct.error where it goes beyond the block."""
    (count,) = struct.unpack_from(f"{order}H", tiff, position)
    for entry in range(position + 2, position + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
        yield tag, kind, entry
