"""The tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.machine import line
from benchmarks.load.measure import LOAD, Run
from benchmarks.load.requests import POOL
from benchmarks.load.servers import BATCHED_FIFO, BATCHES, DEFAULT, FIFO


def markdown(record: Mapping[str, Any]) -> str:
    runs = {name: Run(**run) for name, run in record["runs"].items()}
    saturated = record["saturated_per_second"] / record["serial_per_second"]
    mean, batches, fifo = (runs[name].mean for name in (DEFAULT, BATCHES, BATCHED_FIFO))
    pictures = record["requests"] * len(runs) + 2 * POOL
    text = (
        f"One client, one request after another: {record['serial_per_second']:.2f} requests a second; {POOL} at once, "
        f"one at a time: {record['capacity_per_second']:.2f}; {2 * POOL} at once, the default: "
        f"{record['saturated_per_second']:.2f}, {saturated:.2f} times the first. The default's mean is "
        f"{mean / batches:.2f} of request batches' and {mean / fifo:.2f} of fifo's on the same batches. "
        f"Pictures that differed from the same request alone: {record['different_bytes']} of {pictures}."
    )
    return "\n\n".join([policies(record, runs), text, beside_simulated(record), line(record["machine"])])


def policies(record: Mapping[str, Any], runs: Mapping[str, Run]) -> str:
    first, rate = runs[FIFO], LOAD * record["capacity_per_second"]
    heads = [f"{record['requests']} requests, {rate:.2f} a second", "mean", "p50", "p99", "longest", "rows a step"]
    rows = []
    for name, run in runs.items():
        cells = [f"{value:.2f} s" for value in (run.mean, run.p50, run.p99, run.longest)]
        cells += [f"{run.rows_per_step:.2f}"]
        cells += [f"{value:.2f}" for value in (run.mean / first.mean, run.p50 / first.p50, run.p99 / first.p99)]
        rows.append([name, *cells])
    return page.table([*heads, f"mean / {FIFO}", "p50", "p99"], rows)


def beside_simulated(record: Mapping[str, Any]) -> str:
    keys = ("mean", "p50", "p99")
    rows = [
        [name, *(f"{row[key]:.2f} / {record['runs'][name][key]:.2f} s" for key in keys)]
        for name, row in record["simulated"].items()
    ]
    return page.table(["simulated beside measured", *keys], rows)
