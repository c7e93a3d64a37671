"""One run, from what the server's stopwatch, /proc and the clients saw."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.processes import STREAMING, Cpu
from benchmarks.harness.quantiles import quantile
from benchmarks.overhead.clients import Moments


def summary(
    stopwatch: Mapping[str, Any], before: Cpu, after: Cpu, started: int, ended: int, received: Moments
) -> dict[str, Any]:
    """Latencies in seconds; stopwatch: what overhead/model.py wrote."""
    calls = [call for call in stopwatch["calls"] if started <= call["from"] and call["until"] <= ended]
    done = {(seed, step): call["until"] for call in calls for seed, step in call.get("steps", ())}
    sends = {(seed, step): (begun, over) for seed, step, begun, over in stopwatch["sends"]}
    wall = (ended - started) / 1e9
    return {
        "seconds": wall,
        "latency": quantiles([(received[key] - done[key]) / 1e9 for key in received]),
        # sampler, outbox: until the channel is asked to send
        "to_send": quantiles([(sends[key][0] - done[key]) / 1e9 for key in received]),
        "to_client": quantiles([(received[key] - sends[key][0]) / 1e9 for key in received]),  # Triton, gRPC, SDK
        "cpu": shares(stopwatch, calls, before, after),
        "engine_wall": sum(call["until"] - call["from"] for call in calls) / 1e9 / wall,
        "between_calls_ms": gap(calls) * 1000,
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    cuts = {f"p{round(100 * share)}": quantile(values, share) for share in (0.5, 0.9, 0.99)}
    return {**cuts, "longest": max(values), "n": len(values)}


def gap(calls: Sequence[Mapping[str, Any]]) -> float:
    """Median seconds of the loop between two denoiser calls that follow one another."""
    pairs = itertools.pairwise(calls)
    return statistics.median([(b["from"] - a["until"]) / 1e9 for a, b in pairs if "steps" in a and "steps" in b])


def shares(
    stopwatch: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], before: Cpu, after: Cpu
) -> dict[str, float]:
    """Processor seconds of a run, by what they went to. `engine`: the loop in its calls, and the engines' threads."""
    spent = {key: after[key] - before.get(key, 0) for key in after}
    names = {int(thread): name for thread, name in stopwatch["threads"].items()}
    engine_threads = set(stopwatch["engine_threads"])
    inside = sum(call["cpu"] for call in calls) / 1e9
    loop = stopwatch["calls"][0]["thread"]
    found: dict[str, float] = {"engine": inside}
    for (process, thread), seconds in spent.items():
        if process != STREAMING:
            name = process
        elif thread in engine_threads:
            name = "engine"
        elif thread == loop:
            name, seconds = "gesso-loop, outside the engine", seconds - inside
        else:
            name = names.get(thread, "Triton's stub").removesuffix("_0").replace("MainThread", "Triton's stub")
        found[name] = found.get(name, 0.0) + seconds
    return found
