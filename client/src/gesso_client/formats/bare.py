"""What is left of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bare:
    kind: str  # Pillow's name of the format
    data: bytes  # a file with nothing in it but the pixels
    # What was read from the rest, under Pillow's names: exif, xmp, icc_profile, gamma, chromaticity, srgb and
    # transparency; cicp is ours: (primaries, transfer).
    info: Mapping[str, Any]
