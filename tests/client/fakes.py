"""A tiny server's answers, and a transport in memory that gives them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gesso_client.errors import Cancelled, NotFound

SIZE: dict[str, Any] = {"type": "ints", "minimum": 1, "maximum": 16384, "min_items": 2, "max_items": 2}
PARAMETERS = {
    "prompt": {"type": "string", "max_bytes": 64},
    "negative_prompt": {"type": "string", "max_bytes": 64, "default": ""},
    "prompt_2": {"type": "string", "max_bytes": 64, "default": ""},
    "negative_prompt_2": {"type": "string", "max_bytes": 64, "default": ""},
    "negative_prompt_strength": {"type": "float", "default": 1.0, "minimum": 0.0, "maximum": 2.0},
    "prompt_weighting": {"type": "bool", "default": False},
    "long_prompt": {"type": "bool", "default": True},
    "clip_skip": {"type": "int", "default": 0, "minimum": 0, "maximum": 1},
    "max_sequence_length": {"type": "int", "default": 512, "minimum": 1, "maximum": 512},
    "height": {"type": "int", "default": 32, "minimum": 8, "maximum": 2048},
    "width": {"type": "int", "default": 48, "minimum": 8, "maximum": 2048},
    "num_inference_steps": {"type": "int", "default": 4, "minimum": 1, "maximum": 1000},
    "guidance_scale": {"type": "float", "default": 7.5, "minimum": 0.0, "maximum": 50.0},
    "guidance_rescale": {"type": "float", "default": 0.0, "minimum": 0.0, "maximum": 1.0},
    "true_cfg_scale": {"type": "float", "default": 1.0, "minimum": 0.0, "maximum": 50.0},
    "strength": {"type": "float", "default": 1.0, "minimum": 0.0, "maximum": 1.0},
    "seed": {"type": "int", "minimum": 0, "maximum": 2**63 - 1},
    "scheduler": {"type": "string", "default": "ddim", "choices": ["ddim", "euler"]},
    "timestep_spacing": {"type": "string", "choices": ["leading", "linspace", "trailing"]},
    "timesteps": {"type": "ints", "minimum": 0, "maximum": 1000, "max_items": 5},
    "sigmas": {"type": "floats", "minimum": 0.0, "maximum": 100.0, "max_items": 5},
    "eta": {"type": "float", "default": 0.0, "minimum": 0.0, "maximum": 1.0},
    "num_images_per_prompt": {"type": "int", "default": 1, "minimum": 1, "maximum": 8},
    "padding_mask_crop": {"type": "int", "minimum": -1, "maximum": 4096},
    "mask_feather": {"type": "int", "default": 0, "minimum": 0, "maximum": 256},
    "latent_blend": {"type": "bool", "default": True},
    "require_native": {"type": "bool", "default": False},
    "preview_every": {"type": "int", "default": 0, "minimum": 0, "maximum": 200},
    **dict.fromkeys(("original_size", "target_size", "negative_original_size", "negative_target_size"), SIZE),
    **{name: SIZE | {"minimum": 0} for name in ("crops_coords_top_left", "negative_crops_coords_top_left")},
}


def description(**changes: Any) -> str:
    """The JSON a model's `gesso` parameter holds."""
    whole = {
        "schema_version": 3,
        "name": "tiny",
        "family": "stable-diffusion",
        "native_inpainting": True,
        "size": {"native": 64, "multiple": 8, "max_pixels": 4096},
        "parameters": PARAMETERS,
        "task_defaults": {"image_to_image": {"strength": 0.8}},
        "tasks": ["inpaint", "image_to_image", "text_to_image"],
    }
    return json.dumps(whole | changes)


MODELS = {"inpaint": description(), "inpaint_once": description(), "resnet": None}


def response(
    event: str, *, step: int = 1, num_steps: int = 1, index: int = 0, image: Any = None, seed: int = 0
) -> dict:
    """One response of the wire contract."""
    report = json.dumps({"seed": seed}).encode() if event == "image" else b""
    return {
        "event": np.array([event.encode()], object),
        "step": np.array([step], np.int32),
        "num_steps": np.array([num_steps], np.int32),
        "index": np.array([index], np.int32),
        "image": np.zeros((0, 0, 3), np.uint8) if image is None else image,
        "seed": np.array([seed], np.int64),
        "report": np.array([report], object),
    }


def replies(inputs: dict[str, Any]) -> Iterator[dict]:
    """What a tiny server answers: each picture is the negative of the image, so that none can be taken for another."""
    height, width = (int(inputs.get(side, [PARAMETERS[side]["default"]])[0]) for side in ("height", "width"))
    image = inputs.get("image", np.zeros((height, width, 3), np.uint8))
    if image.shape[0] == 1 and "height" in inputs:  # what generate_stream makes of a picture
        image = image.reshape(height, width, 3)
    steps, seed = int(inputs.get("num_inference_steps", [4])[0]), int(inputs.get("seed", [7])[0])
    every = int(inputs.get("preview_every", [0])[0])
    for step in range(1, steps + 1):
        yield response("progress", step=step, num_steps=steps)
        if every and step % every == 0:
            yield response("preview", step=step, num_steps=steps, image=image[::2, ::2])
    for index in range(int(inputs.get("num_images_per_prompt", [1])[0])):
        yield response("image", step=steps, num_steps=steps, index=index, image=255 - image, seed=seed + index)


class FakeTransport:
    """Plays one script per attempt: responses are given, exceptions raised, functions called with the call."""

    def __init__(self, *scripts: list[Any], models: dict[str, str | None] | None = None) -> None:
        self.scripts = list(scripts)
        self.models = MODELS if models is None else models
        self.requests: list[Any] = []
        self.calls: list[FakeCall] = []
        self.descriptions = 0
        self.closed = False

    def run(self, request: Any) -> FakeCall:
        self.requests.append(request)
        script = self.scripts.pop(0) if self.scripts else list(replies(dict(request.inputs)))
        self.calls.append(FakeCall(script))
        return self.calls[-1]

    def model_names(self) -> tuple[str, ...]:
        return tuple(self.models)

    def describe(self, model: str) -> str | None:
        self.descriptions += 1
        if model not in self.models:
            raise NotFound(f"unknown model {model!r}", "model")
        return self.models[model]

    def close(self) -> None:
        self.closed = True


class FakeCall:
    def __init__(self, script: list[Any]) -> None:
        self._script = script
        self.cancelled = threading.Event()

    def __iter__(self) -> Iterator[dict]:
        for item in self._script:
            if isinstance(item, Exception):
                raise item
            if callable(item):
                item(self)
            elif self.cancelled.is_set():
                raise Cancelled("the request was cancelled")
            else:
                yield item

    def cancel(self) -> None:
        self.cancelled.set()


class AsyncFakeTransport:
    """FakeTransport with `await`."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.sync = FakeTransport(*scripts)

    async def run(self, request: Any) -> Any:
        for item in self.sync.run(request):
            yield item

    async def model_names(self) -> tuple[str, ...]:
        return self.sync.model_names()

    async def describe(self, model: str) -> str | None:
        return self.sync.describe(model)

    async def close(self) -> None:
        self.sync.close()


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """True as soon as it holds, False when it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False
