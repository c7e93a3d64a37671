"""The requests these tests send: small pictures that differ, and plain options."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from e2e.wire import tensors

Tensor = npt.NDArray[Any]

# With ddim, num_inference_steps is the number of steps that run; pndm runs one more.
FEW = {"num_inference_steps": 4, "scheduler": "ddim", "seed": 7}
LONG = {"num_inference_steps": 200, "scheduler": "ddim", "seed": 7}


def photo(height: int = 64, width: int = 72, seed: int = 0) -> Tensor:
    """[H, W, 3], every one different."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def hole(height: int = 64, width: int = 72) -> Tensor:
    """[H, W]: the middle is to be repainted, its rim is soft, the rest is kept."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 100
    mask[height // 3 : height - height // 3, width // 3 : width - width // 3] = 255
    return mask


def inpaint(height: int = 64, width: int = 72, **options: Any) -> dict[str, Tensor]:
    """An inpainting request of four steps; options replace or add."""
    pictures = {"image": photo(height, width), "mask_image": hole(height, width)}
    return tensors(**{"prompt": "a cat on a sofa", **pictures, **FEW, **options})


def text_to_image(**options: Any) -> dict[str, Tensor]:
    """The cheapest request there is: 64 x 64, one row a step."""
    return tensors(**{"prompt": "a cat", "height": 64, "width": 64, "guidance_scale": 1.0, **FEW, **options})


def long_job(**options: Any) -> dict[str, Tensor]:
    """200 steps at 256 x 256: tens of seconds, so whoever sees it end early has seen it cancelled."""
    return inpaint(256, 256, **{**LONG, **options})
