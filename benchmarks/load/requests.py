"""What is asked for: requests of a mix of steps, for the shipped model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.harness.paths import EXAMPLES
from benchmarks.harness.pictures import Pixels
from benchmarks.simulate.arrivals import STEPS

SIDE = 128  # pixels: the shipped model's own size
GUIDANCE = 3.0
POOL = 40  # different requests, ten of each number of steps
COLOURS = ("red", "blue", "yellow", "white", "green")
THINGS = ("balloon", "house", "tree", "boat")


@dataclass(frozen=True)
class Request:
    prompt: str
    seed: int
    steps: int
    mask: Pixels


def pool() -> list[Request]:
    rng = np.random.default_rng(5)
    requests = []
    for number in range(POOL):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = rng.integers(8, 56, 2)
        mask[top : top + 56, left : left + 56] = 255
        prompt = f"a {COLOURS[number % len(COLOURS)]} {THINGS[number // 2 % len(THINGS)]}"
        requests.append(Request(prompt, number, STEPS[number % len(STEPS)], mask))
    return requests


def picture() -> Pixels:
    """[SIDE, SIDE, 3]: the picture of all requests."""
    return np.asarray(Image.open(EXAMPLES / "landscape.png").convert("RGB").resize((SIDE, SIDE)))
