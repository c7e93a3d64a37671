"""A diffusers pipeline behind Triton as one would first write it: load in `initialize`, paint in `execute`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        torch.set_num_threads(int(parameters["threads"]["string_value"]))
        checkpoint = parameters["checkpoint"]["string_value"]
        self._pipeline = StableDiffusionInpaintPipeline.from_pretrained(
            checkpoint, local_files_only=True, torch_dtype=torch.float32
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        height, width = inputs["mask_image"].shape
        painted = self._pipeline(
            inputs["prompt"][0].decode(),
            image=Image.fromarray(inputs["image"]),
            mask_image=Image.fromarray(inputs["mask_image"]),
            height=height,
            width=width,
            num_inference_steps=int(inputs["num_inference_steps"][0]),
            guidance_scale=float(inputs["guidance_scale"][0]),
            generator=torch.Generator("cpu").manual_seed(int(inputs["seed"][0])),
        ).images[0]
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", np.asarray(painted))])
