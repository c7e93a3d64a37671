"""When requests come, and how many of them a machine can do."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from benchmarks.simulate.simulation import NONE, Arrival, Overheads, Request
from gesso_backend.serving.costs import Costs
from gesso_backend.serving.priority import NORMAL

STEPS = (8, 20, 30, 50)  # the mix: each as likely as the others


def poisson(rate: float, count: int, seed: int, steps: Sequence[int] = STEPS) -> list[Arrival]:
    """rate: requests a second."""
    rng = random.Random(seed)
    at = 0.0
    arrivals = []
    for _ in range(count):
        at += rng.expovariate(rate)
        arrivals.append(Arrival(at, rng.choice(steps)))
    return arrivals


def capacity(costs: Costs, overheads: Overheads = NONE, steps: Sequence[int] = STEPS) -> float:
    """Requests a second, one after another."""

    def seconds(count: int) -> float:
        request, total = Request(0.0, count, NORMAL, 0.0), 0.0
        while (call := request.call) is not None:
            total += costs.estimate(call.network, call.rows, call.pixels) + overheads.call
            request.done += 1
        return total

    return 1 / statistics.fmean(seconds(count) for count in steps)
