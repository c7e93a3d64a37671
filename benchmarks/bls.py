"""What it costs to call the networks as Triton models instead of in process.

    python -m benchmarks bls                        the tiny random model, made when it is not there
    python -m benchmarks bls --bundle bundles/little-world

Two servers of the same bundle run at once, one with `--engine triton`, and are asked the same requests, alternating, so
that a noisy machine disturbs both alike. A step's time is the denoiser's, as the request's own report has it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import page
from benchmarks.harness.alternate import alternate
from benchmarks.harness.artefacts import random_bundle
from benchmarks.harness.machine import machine, threads
from benchmarks.harness.paths import RESULTS, ROOT
from benchmarks.harness.pictures import noise
from benchmarks.harness.server import serve
from gesso_client import Client

FILE = RESULTS / "bls.json"
REPEATS = 12
AT_ONCE = (1, 4, 8)  # requests together; with guidance two rows each
STEPS = 20
ENGINES = ("onnxruntime", "triton")


@dataclass(frozen=True)
class Measured:
    """Medians of REPEATS rounds, by engine: in process, and as Triton models."""

    at_once: int
    rows_per_step: dict[str, float]
    step_ms: dict[str, float]  # a call of the denoiser, as the loop sees it
    request_ms: dict[str, float]  # from all requests sent to the last picture back
    equal: bool  # the pictures of both, byte for byte


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="(the tiny random model)")
    parser.add_argument("--side", type=int, default=128, help="of the picture, in pixels (128)")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--write", action="store_true", help=f"put the numbers into {FILE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    bundle = options.bundle or random_bundle("bench-tiny", "tiny")
    fixed = ("--max-rows=16", "--max-vae-rows=1", "--profile-seconds=0", f"--threads={threads()}")
    with (
        serve(bundle, f"--engine={ENGINES[0]}", *fixed) as inside,
        serve(bundle, f"--engine={ENGINES[1]}", *fixed) as outside,
    ):
        servers = dict(zip(ENGINES, (inside.grpc, outside.grpc), strict=True))
        measured = [measure(servers, count, options.side, options.repeats) for count in AT_ONCE]
    print(markdown(measured))
    if options.write:
        record = {
            "bundle": bundle.name, "side": options.side, "steps": STEPS, "repeats": options.repeats,
            "machine": machine(), "measured": [asdict(m) for m in measured],
        }  # fmt: skip
        FILE.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(m.equal for m in measured) else 1


def measure(servers: dict[str, str], at_once: int, side: int, repeats: int) -> Measured:
    rows: dict[str, list[float]] = {engine: [] for engine in servers}
    steps: dict[str, list[float]] = {engine: [] for engine in servers}
    rounds: dict[str, list[float]] = {engine: [] for engine in servers}
    equal = True
    sides = {engine: lambda _, url=url: paint(url, at_once, side) for engine, url in servers.items()}
    for number, answers in enumerate(alternate(sides, repeats + 1)):
        pictures = []
        for engine, (seconds, results) in answers.items():
            pictures.append([np.asarray(result.image) for result in results])
            if number:
                reports = [result.report for result in results]
                rounds[engine].append(seconds * 1000)
                steps[engine].append(median([report["timings_ms"]["unet"] / STEPS for report in reports]))
                rows[engine].append(median([report["rows_per_step"] for report in reports]))
        equal &= all(np.array_equal(a, b) for a, b in zip(*pictures, strict=True))

    def medians(values: dict[str, list[float]]) -> dict[str, float]:
        return {engine: round(median(found), 3) for engine, found in values.items()}

    return Measured(at_once, medians(rows), medians(steps), medians(rounds), equal)


def paint(url: str, at_once: int, side: int) -> tuple[float, list[Any]]:
    """(seconds until all are there, the results)."""
    image, mask = noise(side), np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    with Client(url) as client, ThreadPoolExecutor(at_once) as pool:
        client.info()  # connected

        def one(seed: int) -> Any:
            return client.inpaint(image, mask, "a boat", seed=seed, num_inference_steps=STEPS, scheduler="ddim")

        started = time.perf_counter()
        results = list(pool.map(one, range(at_once)))
        return time.perf_counter() - started, results


def markdown(measured: Sequence[Measured]) -> str:
    heads = ("requests at once", "rows a step", "step, in process", "step, by BLS", "BLS adds", "all, in process")
    rows = []
    for m in measured:
        (a, b), (x, y) = m.step_ms.values(), m.request_ms.values()
        times = (f"{a:.2f} ms", f"{b:.2f} ms", f"{b - a:.2f} ms", f"{x:.0f} ms", f"{y:.0f} ms")
        rows.append([m.at_once, f"{m.rows_per_step['triton']:.1f}", *times])
    equal = all(m.equal for m in measured)
    table = page.table([*heads, "by BLS"], rows)
    return f"{table}\n\nThe pictures are {'byte for byte the same' if equal else 'NOT the same'}."
