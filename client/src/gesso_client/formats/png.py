"""PNG (https://www.w3.org/TR/png-3/): the chunks that define the pixels, and what the others say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image as PILImage

from gesso_client.formats.bare import Bare

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # damage in these is damage to the picture
MOST_BYTES = 32 << 20  # of a compressed profile or text
AT_ONCE = 1 << 20  # bytes unpacked
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
WHOLE = ((0, 0, 1, 1),)  # first column and row, steps between columns and rows
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
GREY, COLOUR = 0, 2  # colour types that a single level or colour can be transparent in
_XMP = b"XML:com.adobe.xmp"
_RAW_EXIF = b"Raw profile type exif"  # ImageMagick's, in hexadecimal digits


def is_one(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def bare(data: bytes) -> Bare:
    kept, info = [SIGNATURE], dict[str, Any]()
    depth = colour = -1
    for kind, body, chunk in _chunks(data):
        if kind == b"IHDR":
            depth, colour = struct.unpack_from(">8xBB", body)
        if kind == b"tRNS" and colour in (GREY, COLOUR):
            info["transparency"] = _transparent(body, depth, colour)
        elif kind in PIXELS:
            kept.append(chunk)
        else:
            info |= {name: value for name, value in _read(kind, body).items() if name not in info}
    if not any(chunk[4:8] == b"IDAT" for chunk in kept[1:]):
        raise ValueError("the file is truncated: it ends before its pixels")
    return Bare("PNG", b"".join([*kept, _chunk(b"IEND", b"")]), info)


def check_whole(data: bytes, picture: PILImage.Image) -> None:
    """Raises ValueError when the pixels end early, although their stream has an end. Pillow leaves the rest at 0.

    picture: what Pillow made of the file; only one that ends in zeros is looked at twice.
    """
    last = picture.crop((0, max(0, picture.height - 2), *picture.size))  # of two rows, Adam7's last pass has one
    if any(not any(last.crop((0, row, last.width, row + 1)).tobytes()) for row in range(last.height)):
        wanted, inflater = 0, zlib.decompressobj()
        for kind, body, _ in _chunks(data):
            if kind == b"IHDR":
                wanted = _length(*struct.unpack_from(">IIBBxxB", body))
            while kind == b"IDAT" and body and wanted > 0 and not inflater.eof:
                wanted -= len(inflater.decompress(body, AT_ONCE))
                body = inflater.unconsumed_tail
        if wanted > 0:
            raise ValueError("the file is truncated: its pixels end early")


def _length(width: int, height: int, depth: int, colour: int, interlaced: int) -> int:
    """Bytes of all rows, each with its filter type."""
    bits = depth * CHANNELS[colour]
    passes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in (ADAM7 if interlaced else WHOLE)]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in passes if columns > 0 and rows > 0)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Kind, content and the whole of each chunk up to the end; damaged ones are left out. Raises ValueError."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if not kind.isalpha():
            raise ValueError("the file is damaged: a chunk has no name")
        if end > len(data):
            if kind in PIXELS:
                raise ValueError(f"the file is truncated in its {kind.decode()} chunk")
            return
        body, intact = data[position + 8 : end - 4], data[end - 4 : end]
        if struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))) == intact:
            yield kind, body, data[position:end]
        elif kind in PIXELS:
            raise ValueError(f"the file is damaged: the checksum of its {kind.decode()} chunk is wrong")
        if kind == b"IEND":
            return
        position = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _transparent(body: bytes, depth: int, colour: int) -> int | tuple[int, ...]:
    """The level or colour that is transparent, as Pillow's levels of 8 bits (of 16 for 16-bit grey)."""
    if colour == GREY:
        (level,) = struct.unpack(">H", body)
        most = 2**depth - 1
        return int(level if depth >= 8 else (level & most) * 255 // most)  # Pillow stretches 1, 2 and 4 bits
    if depth == 16:
        raise ValueError("one colour of 16 bits is transparent, and Pillow reads 8; save it with an alpha channel")
    return struct.unpack(">3H", body)


def _read(kind: bytes, body: bytes) -> dict[str, Any]:
    """What a chunk says besides the pixels; nothing when it cannot be read."""
    try:
        if kind == b"eXIf":
            return {"exif": body}
        if kind == b"iCCP":
            profile = body[body.index(b"\0") + 2 :]
            return {"icc_profile": _inflate(profile)}
        if kind == b"sRGB":
            return {"srgb": body[0]}
        if kind == b"gAMA":
            return {"gamma": struct.unpack(">I", body)[0] / 100000}
        if kind == b"cHRM":
            return {"chromaticity": tuple(value / 100000 for value in struct.unpack(">8I", body))}
        if kind == b"cICP":
            primaries, transfer, matrix, full = struct.unpack(">4B", body)
            return {"cicp": (primaries, transfer)} if (matrix, full) == (0, 1) else {}
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            return _read_text(kind, body)
    except (ValueError, IndexError, struct.error, zlib.error):
        pass
    return {}


def _read_text(kind: bytes, body: bytes) -> dict[str, Any]:
    key, _, value = body.partition(b"\0")
    if key not in (_XMP, _RAW_EXIF):
        return {}
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed, value = value[0] == 1, value[2:].split(b"\0", 2)[2]
    elif compressed:
        value = value[1:]  # the method, of which there is one
    text = _inflate(value) if compressed else value
    if key == _XMP:
        return {"xmp": text}
    return {"exif": bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))}


def _inflate(data: bytes) -> bytes:
    """Raises zlib.error, or ValueError for more than anybody's profile has."""
    inflater = zlib.decompressobj()
    found = inflater.decompress(data, MOST_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError("too large")
    return found
