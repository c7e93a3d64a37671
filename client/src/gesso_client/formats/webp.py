"""WebP (RFC 9649): the chunks that define the pixels, and its profile, EXIF and XMP."""

from __future__ import annotations

import struct

from gesso_client.formats.bare import Bare

_PIXELS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_METADATA = {b"ICCP": "icc_profile", b"EXIF": "exif", b"XMP ": "xmp"}
_FLAGS = 0x20 | 0x08 | 0x04  # of VP8X, for these three


def is_one(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def bare(data: bytes) -> Bare:
    kept, info = [b"WEBP"], dict[str, bytes]()
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        if kind in _PIXELS:
            if len(body) < length:
                raise ValueError(f"the file is truncated in its {kind.decode().strip()} chunk")
            if kind == b"VP8X":
                body = bytes([body[0] & ~_FLAGS]) + body[1:]
            kept.append(struct.pack("<4sI", kind, length) + body + b"\0" * (length % 2))
        elif kind in _METADATA:
            info.setdefault(_METADATA[kind], body)
        position += 8 + length + length % 2
    riff = b"".join(kept)
    return Bare("WEBP", struct.pack("<4sI", b"RIFF", len(riff)) + riff, info)
