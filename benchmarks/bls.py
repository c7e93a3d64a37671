"""What it costs to call the networks as Triton models instead of in process: the two, side by side, in one run.

    python benchmarks/bls.py                        the tiny random model, made when it is not there
    python benchmarks/bls.py --bundle bundles/little-world

Two servers of the same bundle run at once, one with `--engine triton`, and are asked the same requests in turn, so that
a noisy machine disturbs both alike. A step's time is the denoiser's, as the request's own report has it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "examples"))

from bench import SIZES, artefacts, machine, median  # noqa: E402
from demo import serve  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "bls.json"
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="(the tiny random model)")
    parser.add_argument("--side", type=int, default=128, help="of the picture, in pixels (128)")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--write", action="store_true", help=f"put the numbers into {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    bundle = options.bundle or artefacts(SIZES[0], ROOT / "checkpoints", ROOT / "bundles")[1]
    threads = len(os.sched_getaffinity(0))
    fixed = ("--max-rows", "16", "--max-vae-rows", "1", "--profile-seconds", "0", "--threads", str(threads))
    with (
        serve(bundle, "--engine", ENGINES[0], *fixed) as inside,
        serve(bundle, "--engine", ENGINES[1], *fixed) as outside,
    ):
        measured = [measure(dict(zip(ENGINES, (inside, outside), strict=True)), count, options) for count in AT_ONCE]
    print(markdown(measured))
    if options.write:
        record = {
            "bundle": bundle.name, "side": options.side, "steps": STEPS, "repeats": options.repeats,
            "machine": machine(threads), "measured": [asdict(m) for m in measured],
        }  # fmt: skip
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(m.equal for m in measured) else 1


def measure(servers: dict[str, str], at_once: int, options: argparse.Namespace) -> Measured:
    rows: dict[str, list[float]] = {engine: [] for engine in servers}
    steps: dict[str, list[float]] = {engine: [] for engine in servers}
    rounds: dict[str, list[float]] = {engine: [] for engine in servers}
    equal = True
    for repeat in range(-1, options.repeats):  # the first round warms both up
        pictures = {}
        for engine in list(servers)[:: 1 if repeat % 2 else -1]:  # neither is always the first
            seconds, results = ask(servers[engine], at_once, options.side)
            pictures[engine] = [np.asarray(result.image) for result in results]
            if repeat >= 0:
                reports = [result.report for result in results]
                rounds[engine].append(seconds * 1000)
                steps[engine].append(median([report["timings_ms"]["unet"] / STEPS for report in reports]))
                rows[engine].append(median([report["rows_per_step"] for report in reports]))
        equal &= all(np.array_equal(a, b) for a, b in zip(*pictures.values(), strict=True))

    def medians(values: dict[str, list[float]]) -> dict[str, float]:
        return {engine: round(median(found), 3) for engine, found in values.items()}

    return Measured(at_once, medians(rows), medians(steps), medians(rounds), equal)


def ask(url: str, at_once: int, side: int) -> tuple[float, list[Any]]:
    """(seconds until all are there, the results)."""
    from gesso_client import Client

    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    with Client(url) as client, ThreadPoolExecutor(at_once) as pool:
        client.info()  # connected

        def one(seed: int) -> Any:
            return client.inpaint(image, mask, "a boat", seed=seed, num_inference_steps=STEPS, scheduler="ddim")

        started = time.perf_counter()
        results = list(pool.map(one, range(at_once)))
        return time.perf_counter() - started, results


def markdown(measured: Sequence[Measured]) -> str:
    lines = [
        "| requests at once | rows a step | step, in process | step, by BLS | BLS adds | all, in process | by BLS |"
    ]
    lines.append("|---" * 7 + "|")
    for m in measured:
        (a, b), (x, y) = m.step_ms.values(), m.request_ms.values()
        rows = m.rows_per_step["triton"]
        lines.append(
            f"| {m.at_once} | {rows:.1f} | {a:.2f} ms | {b:.2f} ms | {b - a:.2f} ms | {x:.0f} ms | {y:.0f} ms |"
        )
    equal = all(m.equal for m in measured)
    return "\n".join([*lines, "", f"The pictures are {'byte for byte the same' if equal else 'NOT the same'}."])


if __name__ == "__main__":
    sys.exit(main())
