"""The tiny model that the fake servers serve, with defaults and bounds to test against."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as PILImage

from gesso_client import Client, Image, Progress, testing
from gesso_client.upload import OWN

SIZE: dict[str, Any] = {"minimum": 1, "maximum": 16384, "min_items": 2, "max_items": 2}
BOUNDS: dict[str, dict[str, Any]] = {
    "prompt": {"max_bytes": 64},
    "negative_prompt": {"max_bytes": 64, "default": ""},
    "negative_prompt_strength": {"default": 1.0, "minimum": 0.0, "maximum": 2.0},
    "height": {"default": 32, "minimum": 8, "maximum": 2048},
    "width": {"default": 48, "minimum": 8, "maximum": 2048},
    "num_inference_steps": {"default": 4, "minimum": 1, "maximum": 1000},
    "guidance_scale": {"default": 7.5, "minimum": 0.0, "maximum": 50.0},
    "strength": {"default": 1.0, "minimum": 0.0, "maximum": 1.0},
    "seed": {"minimum": 0, "maximum": 2**63 - 1},
    "scheduler": {"default": "ddim", "choices": ["ddim", "euler"]},
    "timestep_spacing": {"choices": ["leading", "linspace", "trailing"]},
    "timesteps": {"minimum": 0, "maximum": 1000, "max_items": 5},
    "sigmas": {"minimum": 0.0, "maximum": 100.0, "max_items": 5},
    "num_images_per_prompt": {"default": 1, "minimum": 1, "maximum": 8},
    "padding_mask_crop": {"minimum": -1, "maximum": 4096},
    "mask_feather": {"default": 0, "minimum": 0, "maximum": 256},
    "latent_blend": {"default": True},
    "preview_every": {"default": 0, "minimum": 0, "maximum": 200},
    **dict.fromkeys(("original_size", "target_size"), SIZE),
}
# An older server's: it does not take what the client fills by itself.
PARAMETERS = {name: spec | BOUNDS.get(name, {}) for name, spec in testing.parameters().items() if name not in OWN}


def description(**changes: Any) -> str:
    tiny = {"name": "tiny", "parameters": PARAMETERS, "task_defaults": {"image_to_image": {"strength": 0.8}}}
    return testing.description(**tiny | changes)


IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = np.eye(4, 6, dtype=bool)
PROGRESS = Progress(1, 1, 0)
MODELS = {"inpaint": description(), "inpaint_once": description(), "resnet": None}


def repainted(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What a fake server makes of an image: the negative where the mask is."""
    return np.where(mask[:, :, None] > 0, 255 - image, image)


PICTURE = Image(PILImage.fromarray(repainted(IMAGE, MASK)), 7, 0, {"seed": 7})


def client(*scripts: list[Any], **options: Any) -> tuple[Client, testing.FakeTransport]:
    """A client and its transport."""
    transport = testing.FakeTransport(*scripts, models=MODELS)
    return Client(transport=transport, **options), transport
