"""The models and pictures of this benchmark."""

from __future__ import annotations

from dataclasses import dataclass

REPEATS = 5
SIDE = 256  # pixels
PROMPT = "a hot air balloon over the sea"


@dataclass(frozen=True)
class Size:
    name: str
    preset: str  # of examples/random_checkpoint.py
    steps: int


SIZES = (Size("tiny", "tiny", 20), Size("SD 1.5", "sd15", 4))
