"""The scheduler under load (`make bench-load`): the shipped model, a real Triton, Poisson arrivals, the SDK.

    python benchmarks/load.py                  about half an hour
    python benchmarks/load.py --requests 60    a quick look; too few for a 99th percentile

Every policy gets the same requests at the same moments: at LOAD of what the server can do one request at a time, with
8, 20, 30 or 50 steps. A latency runs from the moment a request was due to be sent until its picture is here.
Caches are off. Every picture is compared with the one of the same request alone. The simulator (simulate.py) is held
against two of the runs: it is given the profile that the server measured, the pace of each run (what its steps took, to
what the profile says of them: the machine's own speed drifts) and the serving overhead of a request alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).parent)]

import simulate as simulator  # noqa: E402
from bench import machine, put  # noqa: E402
from demo import SHIPPED, export_shipped, serve  # noqa: E402
from gesso_backend import policy as policies  # noqa: E402
from gesso_backend import profile as profiles  # noqa: E402
from gesso_backend.policy import Policy  # noqa: E402
from gesso_backend.profile import Profile, RowCaps  # noqa: E402
from gesso_client import AsyncClient  # noqa: E402

SIDE = 128  # pixels: the shipped model's own size
LOAD = 0.8
THROUGHPUT_TURNS = 4
POOL = 40  # different requests, ten of each number of steps
COLOURS = ("red", "blue", "yellow", "white", "green")
THINGS = ("balloon", "house", "tree", "boat")
NETWORKS = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
PAGE = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- measured by `make bench-load` -->"
RESULTS = ROOT / "benchmarks" / "results" / "load.json"

ALONE = ("--max-rows=2", "--max-vae-rows=1")  # a guided request has two rows: no two share a call
SERVERS = {
    "fifo, one at a time": ("--policy=fifo", *ALONE),
    "request batches of 8": ("--policy=request-batches",),
    "fifo": ("--policy=fifo",),
    "srpt, one at a time": ("--policy=srpt", *ALONE),
    "srpt (default)": (),
}
FIFO, BATCHES, BATCHED_FIFO, ORDER_ALONE, DEFAULT = SERVERS


@dataclass(frozen=True)
class Job:
    prompt: str
    seed: int
    steps: int
    mask: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    """seconds: from when the request was due. rows: of a step, on average. Also the seconds of the network calls that
    the request was part of, and of its steps among them."""

    seconds: float
    digest: str
    rows: float
    networks: float
    steps: float


@dataclass(frozen=True)
class Run:
    mean: float
    p50: float
    p99: float
    longest: float
    rows_per_step: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--throughput", action="store_true", help="only a full queue beside one after another, in turns"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    export_shipped(SHIPPED)
    if options.throughput:
        print(json.dumps(throughput(), indent=2))
        return 0
    record = measure(options.requests, options.seed)
    tables = markdown(record)
    print(tables)
    if options.write:
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")
        put(PAGE, MARK, tables)
    return 0 if record["different_bytes"] == 0 else 1


def measure(requests: int, seed: int) -> dict[str, Any]:
    image = np.asarray(Image.open(ROOT / "examples" / "landscape.png").convert("RGB").resize((SIDE, SIDE)))
    jobs = pool()
    with serving(FIFO) as url:
        alone, serial = asyncio.run(one_after_another(url, image, jobs))
        _, capacity = asyncio.run(all_at_once(url, image, jobs))
    with serving(DEFAULT) as url:
        crowd, saturated = asyncio.run(all_at_once(url, image, jobs * 2))
    different = sum(answer.digest != alone[number % len(jobs)].digest for number, answer in enumerate(crowd))
    rate = LOAD * capacity
    rng = random.Random(seed)
    chosen = [rng.randrange(len(jobs)) for _ in range(requests)]
    at = [arrival.at for arrival in simulator.poisson(rate, requests, seed)]
    runs: dict[str, Run] = {}
    told: dict[str, list[Answer]] = {}
    for name in SERVERS:
        with serving(name) as url:
            told[name] = answers = asyncio.run(open_loop(url, image, jobs, chosen, at))
        different += sum(answer.digest != alone[which].digest for which, answer in zip(chosen, answers, strict=True))
        runs[name] = summary(answers)
        print(f"{name}: {runs[name]}", flush=True)
    arrivals = [simulator.Arrival(moment, jobs[which].steps) for moment, which in zip(at, chosen, strict=True)]
    return {
        "machine": machine(len(os.sched_getaffinity(0))),
        "requests": requests,
        "seed": seed,
        "serial_per_second": serial,
        "capacity_per_second": capacity,
        "saturated_per_second": saturated,
        "different_bytes": different,
        "runs": {name: asdict(run) for name, run in runs.items()},
        "simulated": simulated(arrivals, alone, told),
    }


def throughput() -> dict[str, list[float]]:
    """Requests a second of the default server, each by turns: the machine's own speed drifts."""
    image = np.asarray(Image.open(ROOT / "examples" / "landscape.png").convert("RGB").resize((SIDE, SIDE)))
    found: dict[str, list[float]] = {"one after another": [], "full queue": []}
    with serving(DEFAULT) as url:
        for _ in range(THROUGHPUT_TURNS):
            found["one after another"].append(asyncio.run(one_after_another(url, image, pool()))[1])
            found["full queue"].append(asyncio.run(all_at_once(url, image, pool()))[1])
    return found


def pool() -> list[Job]:
    rng = np.random.default_rng(5)
    jobs = []
    for number in range(POOL):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = rng.integers(8, 56, 2)
        mask[top : top + 56, left : left + 56] = 255
        prompt = f"a {COLOURS[number % len(COLOURS)]} {THINGS[number // 2 % len(THINGS)]}"
        jobs.append(Job(prompt, number, simulator.STEPS[number % len(simulator.STEPS)], mask))
    return jobs


def serving(name: str) -> Any:
    return serve(SHIPPED, "--cache-mib=0", *SERVERS[name])


async def ask(client: AsyncClient, image: np.ndarray[Any, Any], job: Job, due: float) -> Answer:
    """due: on time.perf_counter; the latency counts from there."""
    result = await client.inpaint(
        image, job.mask, job.prompt, seed=job.seed, num_inference_steps=job.steps, guidance_scale=3.0
    )
    seconds = time.perf_counter() - due
    assert result.report["changed_outside_mask"] == 0
    digest = hashlib.sha256(np.asarray(result.image).tobytes()).hexdigest()
    stages = {name: ms / 1000 for name, ms in result.report["timings_ms"].items()}
    networks = sum(stages.get(name, 0.0) for name in NETWORKS)
    return Answer(seconds, digest, result.report["rows_per_step"], networks, stages["unet"])


async def one_after_another(url: str, image: np.ndarray[Any, Any], jobs: Sequence[Job]) -> tuple[list[Answer], float]:
    """(each one's answer, requests a second)."""
    async with AsyncClient(url) as client:
        for job in jobs[:4]:  # warm
            await ask(client, image, job, 0.0)
        started = time.perf_counter()
        answers = [await ask(client, image, job, time.perf_counter()) for job in jobs]
        return answers, len(jobs) / (time.perf_counter() - started)


async def all_at_once(url: str, image: np.ndarray[Any, Any], jobs: Sequence[Job]) -> tuple[list[Answer], float]:
    async with AsyncClient(url) as client:
        for job in jobs[:4]:
            await ask(client, image, job, 0.0)
        started = time.perf_counter()
        answers = await asyncio.gather(*(ask(client, image, job, started) for job in jobs))
        return answers, len(jobs) / (time.perf_counter() - started)


async def open_loop(
    url: str, image: np.ndarray[Any, Any], jobs: Sequence[Job], chosen: Sequence[int], at: Sequence[float]
) -> list[Answer]:
    async with AsyncClient(url) as client:
        for job in jobs[:4]:
            await ask(client, image, job, 0.0)
        started = time.perf_counter()
        running = []
        for which, moment in zip(chosen, at, strict=True):
            await asyncio.sleep(max(0.0, started + moment - time.perf_counter()))
            running.append(asyncio.create_task(ask(client, image, jobs[which], started + moment)))
        return await asyncio.gather(*running)


def summary(answers: Sequence[Answer]) -> Run:
    seconds = sorted(answer.seconds for answer in answers)
    quantile = simulator.quantile
    return Run(
        mean=statistics.fmean(seconds),
        p50=quantile(seconds, 0.50),
        p99=quantile(seconds, 0.99),
        longest=seconds[-1],
        rows_per_step=statistics.fmean(answer.rows for answer in answers),
    )


def simulated(
    arrivals: Sequence[simulator.Arrival], alone: Sequence[Answer], told: Mapping[str, Sequence[Answer]]
) -> dict[str, dict[str, float]]:
    """What the simulator says of two of the runs, each at the machine's pace of that run."""
    profile = server_profile()
    overheads = simulator.Overheads(request=statistics.fmean(answer.seconds - answer.networks for answer in alone))
    rows = {}
    for name in (FIFO, DEFAULT):
        paced = simulator.paced(profile, pace(profile, arrivals, told[name]))
        rows[name] = simulator.simulate(arrivals, policy(name, profile), paced, overheads).row()
    return rows


def pace(profile: Profile, arrivals: Sequence[simulator.Arrival], answers: Sequence[Answer]) -> float:
    """What the steps of a run took, to what the profile says of steps of so many rows."""
    expected = (
        arrival.steps * profile.estimate("unet", round(answer.rows), simulator.LATENTS)
        for arrival, answer in zip(arrivals, answers, strict=True)
    )
    return sum(answer.steps for answer in answers) / sum(expected)


def policy(name: str, profile: Profile) -> Policy:
    caps = RowCaps(profile, 2, 1) if name in (FIFO, ORDER_ALONE) else RowCaps(profile, 0, 0)
    return policies.make("fifo" if name in (FIFO, BATCHED_FIFO) else "srpt", caps, "unet")


def server_profile() -> Profile:
    """The one the servers measured and kept."""
    from gesso_backend import bundle as bundles
    from gesso_backend.engines import load_engines
    from gesso_backend.settings import Settings

    settings, bundle = Settings(bundle=str(SHIPPED)), bundles.load(SHIPPED)
    return profiles.load_or_measure(bundle, load_engines(settings, SHIPPED, bundle), settings)


def markdown(record: dict[str, Any]) -> str:
    runs = {name: Run(**run) for name, run in record["runs"].items()}
    first = runs[FIFO]
    lines = [
        f"| {record['requests']} requests, {LOAD * record['capacity_per_second']:.2f} a second "
        "| mean | p50 | p99 | longest | rows a step | mean / fifo, one at a time | p50 | p99 |",
        "|---" * 9 + "|",
    ]
    for name, run in runs.items():
        cells = [f"{value:.2f} s" for value in (run.mean, run.p50, run.p99, run.longest)]
        cells += [f"{run.rows_per_step:.2f}"]
        cells += [f"{value:.2f}" for value in (run.mean / first.mean, run.p50 / first.p50, run.p99 / first.p99)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    saturated = record["saturated_per_second"] / record["serial_per_second"]
    mean, batches, fifo = (runs[name].mean for name in (DEFAULT, BATCHES, BATCHED_FIFO))
    pictures = record["requests"] * len(runs) + 2 * POOL
    lines += [
        "",
        f"One client, one request after another: {record['serial_per_second']:.2f} requests a second; {POOL} at once, "
        f"one at a time: {record['capacity_per_second']:.2f}; {2 * POOL} at once, the default: "
        f"{record['saturated_per_second']:.2f}, {saturated:.2f} times the first. The default's mean is "
        f"{mean / batches:.2f} of request batches' and {mean / fifo:.2f} of fifo's on the same batches. "
        f"Pictures that differed from the same request alone: {record['different_bytes']} of {pictures}.",
        "",
        "| simulated beside measured | mean | p50 | p99 |",
        "|---|---|---|---|",
    ]
    for name, row in record["simulated"].items():
        run = asdict(runs[name])
        lines.append(
            f"| {name} | " + " | ".join(f"{row[k]:.2f} / {run[k]:.2f} s" for k in ("mean", "p50", "p99")) + " |"
        )
    about = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
    return "\n".join([*lines, "", f"Machine and versions: {about}."])


if __name__ == "__main__":
    sys.exit(main())
