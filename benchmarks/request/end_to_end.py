"""gesso through SDK, gRPC and Triton, and diffusers' eager pipeline: the same request to both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from benchmarks.harness.alternate import alternate, timed
from benchmarks.harness.machine import threads
from benchmarks.harness.pictures import middle, noise
from benchmarks.harness.server import serve
from benchmarks.request.size import PROMPT, REPEATS, SIDE, Size
from gesso_client import Client

ENGINE_STAGES = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
GUIDANCE = 7.5
Paint = Callable[[int], Any]  # seed


def side_by_side(size: Size, checkpoint: Path, bundle: Path) -> tuple[list[float], list[float], list[float]]:
    """(gesso's seconds, diffusers' seconds, gesso's seconds outside the engine calls)."""
    ours, theirs, overheads = [], [], []
    pipeline = diffusers_pipeline(checkpoint, size.steps)
    # Without caches, as diffusers: all requests have the same prompt and picture.
    with serve(bundle, "--cache-mib=0") as server, Client(server.grpc) as client:
        sides: dict[str, Callable[[int], tuple[float, float]]] = {
            "gesso": gesso(client, size.steps),
            "diffusers": lambda seed: (timed(lambda: pipeline(seed)), 0.0),
        }
        for number, times in enumerate(alternate(sides, REPEATS + 1)):
            if number:
                (seconds, overhead), (reference, _) = times["gesso"], times["diffusers"]
                ours.append(seconds)
                theirs.append(reference)
                overheads.append(overhead)
                print(f"{size.name} {number}/{REPEATS}: gesso {seconds:.3f} s, diffusers {reference:.3f} s", flush=True)
    return ours, theirs, overheads


def gesso(client: Client, steps: int) -> Callable[[int], tuple[float, float]]:
    """Seed -> (seconds, those of them outside the engine calls)."""
    # latent_blend off is what diffusers does: both sides run the same networks equally often.
    options: dict[str, Any] = {"guidance_scale": GUIDANCE, "scheduler": "ddim", "latent_blend": False}
    image, mask = noise(SIDE), middle(SIDE)

    def paint(seed: int) -> tuple[float, float]:
        started = time.perf_counter()
        report = client.inpaint(image, mask, PROMPT, seed=seed, num_inference_steps=steps, **options).report
        seconds = time.perf_counter() - started
        return seconds, seconds - sum(report["timings_ms"][stage] for stage in ENGINE_STAGES) / 1000

    return paint


def diffusers_pipeline(checkpoint: Path, steps: int) -> Paint:
    torch.set_num_threads(threads())
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    image, mask = Image.fromarray(noise(SIDE)), Image.fromarray(middle(SIDE))
    return lambda seed: pipeline(
        PROMPT,
        image=image,
        mask_image=mask,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
    )
