"""One model on one engine: its denoiser's calls, its requests, and the same through Triton."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.engines import build
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.model import PROMPT, Model
from benchmarks.harness import in_process
from benchmarks.harness.alternate import timed
from benchmarks.harness.pictures import Pixels, middle, noise
from benchmarks.harness.server import serve
from benchmarks.harness.tensors import tensors
from gesso_backend.serving.service import Service
from gesso_client import Client

REPEATS = 5
TOGETHER = 8  # requests at once, for step batching
PICTURE = {"scheduler": "ddim", "padding_mask_crop": -1}
TO_SERVE = ("engine", "providers", "device", "max_rows", "max_vae_rows", "batch_sizes", "profile_seconds")


@dataclass(frozen=True)
class Answer:
    picture: Pixels
    seconds: float
    engine_seconds: float
    idle: float  # of the time from first to last step


def measure(found: Findings, model: Model, bundle: Path, engine: str, options: argparse.Namespace) -> Pixels:
    """Fill in `found`; returns the picture of a request alone."""
    settings = {
        "engine": engine,
        "providers": "cpu" if options.dry_run else "cuda",
        "device": options.device,
        "max_rows": model.rows[-1],
        "max_vae_rows": 1,
        "batch_sizes": ",".join(map(str, model.rows)),
        "profile_seconds": 0,
        "stall_seconds": 3600,
    }
    if engine == "tensorrt":
        found.build_seconds = build(model, bundle, options.device)
    service = in_process.open_service(bundle=str(bundle), **settings)
    try:
        found.kinds = dict(service.engines.names)
        batching(found, model, service)
        picture = requests(found, model, service)
    finally:
        service.drain()
    if options.no_serve:
        found.notes.append("not served: --no-serve")
    else:
        served(found, model, bundle, settings, picture)
    return picture


def batching(found: Findings, model: Model, service: Service) -> None:
    """The denoiser's calls by rows, and whether a row knows its batch."""
    bundle = in_process.bundle_of(service)
    engine, inputs = service.engines.engine(bundle.denoiser), in_process.step_inputs(bundle, model.rows[-1], model.side)
    (output,) = bundle.denoiser_spec.outputs

    def call(rows: int, first: int = 0) -> Any:
        return engine(**{name: array[first : first + rows] for name, array in inputs.items()})[output]

    alone = [call(1, row)[0] for row in range(model.rows[-1])]
    found.rows_equal = all(
        np.array_equal(call(rows)[row], alone[row]) for rows in range(2, model.rows[-1] + 1) for row in range(rows)
    )
    padded = getattr(engine, "_first", engine)  # of an engine with a fallback
    batches = getattr(padded, "_batch_sizes", {}).values()
    found.batch_sizes = sorted({size for each in batches for size in each.sizes})
    for rows in model.rows:
        found.step_ms[rows] = round(1000 * statistics.median(timed(lambda r=rows: call(r)) for _ in range(REPEATS)), 3)


def requests(found: Findings, model: Model, service: Service) -> Pixels:
    """A request alone, one after another, and together; in this process, through the service as Triton runs it."""
    submit(model, service, 0)()  # warm
    lone = [submit(model, service, 1)() for _ in range(REPEATS)]
    found.lone_seconds = statistics.median(answer.seconds for answer in lone)
    in_engines = statistics.median(answer.engine_seconds for answer in lone)
    found.overhead = round(statistics.median((a.seconds - a.engine_seconds) / a.engine_seconds for a in lone), 4)
    found.idle_between_steps = round(statistics.median(answer.idle for answer in lone), 4)
    found.notes.append(f"a request alone: {in_engines:.3f} s of it in the engines")
    seeds = range(2, 2 + TOGETHER)
    serial = timed(lambda: [submit(model, service, seed)() for seed in seeds])
    together_from = time.perf_counter()
    waiting = [submit(model, service, seed) for seed in (1, *seeds[1:])]
    answers = [wait() for wait in waiting]
    together = time.perf_counter() - together_from
    found.serial_per_second = round(TOGETHER / serial, 4)
    found.together_per_second = round(TOGETHER / together, 4)
    found.batching_gain = round(serial / together, 3)
    found.picture_equal_alone = bool(np.array_equal(answers[0].picture, lone[0].picture))
    return lone[0].picture


def submit(model: Model, service: Service, seed: int) -> Callable[[], Answer]:
    """Send a request; the function returned waits for its answer."""
    inputs = tensors(
        noise(model.side), middle(model.side), PROMPT, num_inference_steps=model.steps, seed=seed, **PICTURE
    )
    answer, bundle = in_process.submit(service, inputs), in_process.bundle_of(service)

    def wait() -> Answer:
        painted = answer()
        timings = json.loads(painted.report)["timings_ms"]
        networks = {name: ms / 1000 for name, ms in timings.items() if name in bundle.networks}
        steps = painted.steps
        in_steps = networks[bundle.denoiser] * (len(steps) - 1) / len(steps)
        idle = 1 - in_steps / (steps[-1] - steps[0])
        return Answer(painted.picture, painted.seconds, sum(networks.values()), idle)

    return wait


def served(found: Findings, model: Model, bundle: Path, settings: dict[str, Any], expected: Pixels) -> None:
    """The same request through gesso-serve and the SDK."""
    flags = [f"--{name.replace('_', '-')}={settings[name]}" for name in TO_SERVE]
    image, mask = noise(model.side), middle(model.side)
    try:
        with serve(bundle, *flags) as server, Client(server.grpc) as client:
            options: dict[str, Any] = {"num_inference_steps": model.steps, **PICTURE}
            result = client.inpaint(image, mask, PROMPT, seed=1, **options)
            client_seconds = timed(lambda: client.inpaint(image, mask, PROMPT, seed=1, **options))
    except Exception as error:
        found.notes.append(f"not served: {type(error).__name__}: {error}")
        return
    found.served = bool(np.array_equal(np.asarray(result.image), expected))
    found.notes.append(f"a request alone through Triton and the SDK: {client_seconds:.3f} s")
