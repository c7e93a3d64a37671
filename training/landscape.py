"""Draws the demo's landscape and its masks (`python -m training.landscape`): a scene, by its seed.

The seed is far from those the model was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.scenes import draw
from training.scenes.masks import Mask, box_mask
from training.scenes.scene import Box

EXAMPLES = Path(__file__).parents[1] / "examples"
SEED, HEIGHT, WIDTH, UNIT = 3002, 256, 384, 52
SKY: Box = (218, 24, 274, 100)  # where nothing is
MARGIN = 4  # pixels


def main() -> None:
    scene = draw(SEED, HEIGHT, WIDTH, UNIT)
    left, top, right, bottom = scene.subject.box
    around = box_mask(HEIGHT, WIDTH, (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))
    Image.fromarray(scene.image).save(EXAMPLES / "landscape.png")
    _save("sky", box_mask(HEIGHT, WIDTH, SKY))
    _save("tree", around)


def _save(name: str, mask: Mask) -> None:
    Image.fromarray((mask * 255).astype(np.uint8)).save(EXAMPLES / f"landscape-{name}.png")


if __name__ == "__main__":
    main()
