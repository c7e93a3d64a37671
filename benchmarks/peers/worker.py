"""One side in a process of its own: `python -m benchmarks.peers.worker NAME CHECKPOINT BUNDLE PIXELS`.

It runs in the side's own environment, which may have none of gesso's packages: each side imports its own.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness.alternate import timed
from benchmarks.harness.machine import threads
from benchmarks.harness.pictures import Pixels, middle, noise
from benchmarks.harness.side import answer
from benchmarks.peers.environments import EXPORTS
from benchmarks.peers.peer import GUIDANCE, SIZES, Size


def main() -> None:
    name, checkpoint, bundle, pixels = sys.argv[1:]
    size = next(size for size in SIZES if size.side == int(pixels))
    if name == "gesso":
        gesso(size, Path(bundle))
    elif name in ("diffusers", "compile"):
        diffusers(size, Path(checkpoint), compiled=name == "compile")
    elif name == "optimum":
        optimum(size)
    else:
        openvino(size)


def answer_seeds(paint: Any, size: Size, *packages: str) -> None:
    """Paint a picture for each seed. Each is new: a side that caches answers gains nothing by it.

    paint: called with picture, mask, steps and seed.
    """
    mask, versions = middle(size.side), {name: version(name) for name in packages}

    def one(seed: int) -> dict[str, Any]:
        picture = noise(size.side, seed)
        return {"seconds": round(timed(lambda: paint(picture, mask, size.steps, seed)), 4), "versions": versions}

    answer(one)


def prompt(seed: int) -> str:
    """A new one for each picture, as the picture is."""
    return f"a hot air balloon over the sea, number {seed}"


def gesso(size: Size, bundle: Path) -> None:
    from benchmarks.harness.server import serve
    from gesso_client import Client

    # Whole pictures and no blending of latents: all sides run the same networks equally often, at the same size.
    fixed: dict[str, Any] = {
        "guidance_scale": GUIDANCE,
        "scheduler": "ddim",
        "latent_blend": False,
        "padding_mask_crop": -1,
    }
    with serve(bundle) as server, Client(server.grpc) as client:
        answer_seeds(
            lambda picture, mask, steps, seed: client.inpaint(
                picture, mask, prompt(seed), seed=seed, num_inference_steps=steps, **fixed
            ),
            size,
            "onnxruntime",
        )


def diffusers(size: Size, checkpoint: Path, compiled: bool) -> None:
    import diffusers
    import torch

    torch.set_num_threads(threads())
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(checkpoint, local_files_only=True)
    if compiled:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
        pipeline.vae.encoder.compile()
    answer_seeds(pipeline_paint(pipeline), size, "diffusers", "torch")


def optimum(size: Size) -> None:
    import onnxruntime
    from optimum.onnxruntime import ORTStableDiffusionInpaintPipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    pipeline = ORTStableDiffusionInpaintPipeline.from_pretrained(EXPORTS / "optimum", session_options=options)
    answer_seeds(pipeline_paint(pipeline), size, "optimum-onnx", "onnxruntime", "diffusers")


def pipeline_paint(pipeline: Any) -> Any:
    """A pipeline of diffusers' kind as all sides are called."""
    import torch
    from diffusers import DDIMScheduler
    from PIL import Image

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return lambda picture, mask, steps, seed: pipeline(
        prompt(seed),
        image=Image.fromarray(picture),
        mask_image=Image.fromarray(mask),
        height=picture.shape[0],
        width=picture.shape[1],
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
    )


def openvino(size: Size) -> None:
    import numpy as np
    import openvino
    import openvino_genai

    pipeline = openvino_genai.InpaintingPipeline(str(EXPORTS / "openvino"))
    pipeline.set_scheduler(
        openvino_genai.Scheduler.from_config(
            str(EXPORTS / "openvino" / "scheduler" / "scheduler_config.json"), openvino_genai.Scheduler.Type.DDIM
        )
    )
    pipeline.reshape(1, size.side, size.side, GUIDANCE)
    fixed = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads(), "PERFORMANCE_HINT": "LATENCY"}
    pipeline.compile("CPU", **fixed)

    def paint(picture: Pixels, mask: Pixels, steps: int, seed: int) -> Any:
        return pipeline.generate(
            prompt(seed),
            openvino.Tensor(picture[None]),
            openvino.Tensor(np.repeat(mask[None, :, :, None], 3, axis=3)),
            strength=1.0,
            width=size.side,
            height=size.side,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            rng_seed=seed,
        )

    answer_seeds(paint, size, "openvino-genai", "openvino")


if __name__ == "__main__":
    main()
