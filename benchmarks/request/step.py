"""A step inside the serving loop, and the denoiser's engine call alone on the same rows, in this process."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.harness.alternate import alternate, timed
from benchmarks.harness.in_process import bundle_of, open_service, step_inputs, submit
from benchmarks.harness.machine import threads
from benchmarks.harness.pictures import middle, noise
from benchmarks.harness.tensors import tensors
from benchmarks.request.size import PROMPT, REPEATS, SIDE, Size

ROWS = 2  # of a step: with guidance


def step_times(size: Size, folder: Path) -> tuple[float, float]:
    """(a step inside the loop, the bare denoiser call), seconds; the two alternate."""
    service = open_service(bundle=str(folder), threads=threads())
    bundle = bundle_of(service)
    engine, rows = service.engines.engine(bundle.denoiser), step_inputs(bundle, ROWS, SIDE)
    inputs = tensors(noise(SIDE), middle(SIDE), PROMPT, scheduler="ddim", num_inference_steps=size.steps)

    def in_loop(number: int) -> float:
        return median(np.diff(submit(service, inputs)().steps).tolist())

    def bare(number: int) -> float:
        return median([timed(lambda: engine(**rows)) for _ in range(size.steps)])

    _, *rounds = alternate({"loop": in_loop, "bare": bare}, REPEATS + 1)
    service.drain()
    return median([each["loop"] for each in rounds]), median([each["bare"] for each in rounds])
