"""What batching buys: seconds of a denoiser call by its rows, of gesso and of the pipeline's network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from benchmarks.harness.alternate import timed
from gesso_backend.serving import measure

TRIES = 5
TOKENS = 77


def gesso_curve(cache: Path) -> dict[int, float]:
    """As the server measured it when it started with this cache."""
    (file,) = (cache / "gesso" / "profiles").glob("*.json")
    seconds = measure.read(file)["unet"]
    return dict(seconds[max(seconds)])


def torch_curve(checkpoint: Path, threads: int, sizes: Iterable[int]) -> dict[int, float]:
    """The same of the pipeline's network, at these sizes of a batch."""
    torch.set_num_threads(threads)
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet", local_files_only=True, torch_dtype=torch.float32)
    side, features = unet.config.sample_size, unet.config.cross_attention_dim
    seconds = {}
    for rows in sizes:
        inputs = (
            torch.randn(rows, unet.config.in_channels, side, side),
            torch.full((rows,), 500),
            torch.randn(rows, TOKENS, features),
        )
        with torch.inference_mode():
            seconds[rows] = min([timed(lambda inputs=inputs: unet(*inputs)) for _ in range(TRIES)][1:])
    return seconds
