"""JPEG (ITU-T T.81): the tables and scans, and what the application segments say. A phone's MPO has more behind."""

from __future__ import annotations

import struct
from typing import Any

from gesso_client.formats.bare import Bare

SIGNATURE = b"\xff\xd8\xff"
_SOS, _COMMENT = 0xDA, 0xFE
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_APPLICATION = range(0xE0, 0xF0)
# libjpeg reads the colour space from these two, when they are whole.
_DECODERS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def is_one(data: bytes) -> bool:
    return data.startswith(SIGNATURE)


def bare(data: bytes) -> Bare:
    kept, info, profile = [data[:2]], dict[str, Any](), dict[int, bytes]()
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            raise ValueError("the file is truncated: it ends before its pixels")
        marker = data[position + 1]
        if marker in (0x00, 0xFF) or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2  # a fill byte, or nothing that matters here
            continue
        if marker == _SOS:
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        body = data[position + 4 : end]
        if marker in _APPLICATION:
            begins, least = _DECODERS.get(marker, (b"", len(data)))
            if body.startswith(begins) and len(body) >= least:
                kept.append(data[position:end])
            _note(body, info, profile)
        elif marker != _COMMENT:
            kept.append(data[position:end])
        position = end
    if profile and sorted(profile) == list(range(1, len(profile) + 1)):
        info["icc_profile"] = b"".join(profile[number] for number in sorted(profile))
    return Bare("JPEG", b"".join([*kept, data[position:]]), info)


def _note(body: bytes, info: dict[str, Any], profile: dict[int, bytes]) -> None:
    if body.startswith(_EXIF):
        info.setdefault("exif", body)
    elif body.startswith(_XMP):
        info.setdefault("xmp", body.removeprefix(_XMP))
    elif body.startswith(_ICC) and len(body) > len(_ICC) + 2:
        profile.setdefault(body[len(_ICC)], body[len(_ICC) + 2 :])  # number, count, then its part
