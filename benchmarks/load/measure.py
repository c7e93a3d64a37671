"""Every policy under the same load."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness.alternate import alternate
from benchmarks.harness.artefacts import shipped
from benchmarks.harness.machine import machine
from benchmarks.harness.quantiles import quantile
from benchmarks.load.requests import picture, pool
from benchmarks.load.sending import Answer, all_at_once, one_after_another, open_loop
from benchmarks.load.servers import DEFAULT, FIFO, SERVERS, serving
from benchmarks.load.simulated import simulated
from benchmarks.simulate.arrivals import poisson
from benchmarks.simulate.simulation import Arrival

LOAD = 0.8
THROUGHPUT_ROUNDS = 4


@dataclass(frozen=True)
class Run:
    """Of all requests' latencies, in seconds."""

    mean: float
    p50: float
    p99: float
    longest: float
    rows_per_step: float


def measure(requests: int, seed: int) -> dict[str, Any]:
    bundle, image, different = shipped(), picture(), pool()
    with serving(bundle, FIFO) as server:
        alone, serial = asyncio.run(one_after_another(server.grpc, image, different))
        _, capacity = asyncio.run(all_at_once(server.grpc, image, different))
    with serving(bundle, DEFAULT) as server:
        crowd, saturated = asyncio.run(all_at_once(server.grpc, image, different * 2))
    expected = [answer.digest for answer in alone]
    unequal = _unequal(crowd, expected * 2)
    rng = random.Random(seed)
    chosen = [rng.randrange(len(different)) for _ in range(requests)]
    moments = [arrival.at for arrival in poisson(LOAD * capacity, requests, seed)]
    answers: dict[str, list[Answer]] = {}
    runs: dict[str, Run] = {}
    for name in SERVERS:
        with serving(bundle, name) as server:
            sent = [different[which] for which in chosen]
            answers[name] = asyncio.run(open_loop(server.grpc, image, sent, moments))
        unequal += _unequal(answers[name], [expected[which] for which in chosen])
        runs[name] = summary(answers[name])
        print(f"{name}: {runs[name]}", flush=True)
    arrivals = [Arrival(at, different[which].steps) for at, which in zip(moments, chosen, strict=True)]
    return {
        "machine": machine(),
        "requests": requests,
        "seed": seed,
        "serial_per_second": serial,
        "capacity_per_second": capacity,
        "saturated_per_second": saturated,
        "different_bytes": unequal,
        "runs": {name: asdict(run) for name, run in runs.items()},
        "simulated": simulated(bundle, arrivals, alone, answers),
    }


def throughput() -> dict[str, list[float]]:
    """Requests a second of the default server; the two alternate, for the machine's own speed drifts."""
    image, requests = picture(), pool()
    with serving(shipped(), DEFAULT) as server:
        rounds = alternate(
            {
                "one after another": lambda number: asyncio.run(one_after_another(server.grpc, image, requests))[1],
                "full queue": lambda number: asyncio.run(all_at_once(server.grpc, image, requests))[1],
            },
            THROUGHPUT_ROUNDS,
        )
        found = list(rounds)
    return {name: [each[name] for each in found] for name in found[0]}


def summary(answers: Sequence[Answer]) -> Run:
    seconds = [answer.seconds for answer in answers]
    return Run(
        mean=statistics.fmean(seconds),
        p50=quantile(seconds, 0.50),
        p99=quantile(seconds, 0.99),
        longest=max(seconds),
        rows_per_step=statistics.fmean(answer.rows for answer in answers),
    )


def _unequal(answers: Sequence[Answer], expected: Sequence[str]) -> int:
    """How many pictures are not those of the same requests alone."""
    return sum(answer.digest != digest for answer, digest in zip(answers, expected, strict=True))
