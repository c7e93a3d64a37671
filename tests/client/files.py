"""Files of pictures, well made and otherwise."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)


def file_of(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def named(data: bytes, name: str = "a.tif") -> io.BytesIO:
    """A file with a name, which is what a TIFF is known by."""
    file = io.BytesIO(data)
    file.name = name
    return file


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """A PNG chunk; with the given checksum."""
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def png_with(*chunks: bytes, picture: Image.Image | np.ndarray = RGB, last: bool = False) -> bytes:
    """A PNG with further chunks before its pixels, or behind them."""
    data = file_of(picture)
    at = data.rindex(b"IEND") - 4 if last else data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def jpeg_with(*segments: tuple[int, bytes], picture: Image.Image | np.ndarray = RGB) -> bytes:
    """A JPEG with further segments (marker, content)."""
    data = file_of(picture, "JPEG", quality=100, subsampling=0)
    return data[:2] + b"".join(struct.pack(">BBH", 0xFF, *(m, len(b) + 2)) + b for m, b in segments) + data[2:]
