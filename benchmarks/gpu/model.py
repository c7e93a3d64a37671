"""What is measured: models of random weights, each at one size."""

from __future__ import annotations

from dataclasses import dataclass

PROMPT = "a hot air balloon over the sea"


@dataclass(frozen=True)
class Model:
    name: str
    preset: str  # of examples/random_checkpoint.py
    precision: str
    side: int  # pixels
    steps: int
    rows: tuple[int, ...]  # batch sizes, tried and allowed
    half: bool = True


MODELS = {
    "sd15": Model("sd15", "sd15", "fp16", 512, 50, (1, 2, 4, 8, 16)),
    "sdxl": Model("sdxl", "sdxl", "fp16", 1024, 30, (1, 2, 4, 8)),
    "tiny": Model("tiny", "tiny", "fp32", 64, 4, (1, 2, 4), half=False),
}
