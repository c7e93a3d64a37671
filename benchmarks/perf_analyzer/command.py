"""gesso and a diffusers pipeline in Triton, under NVIDIA's load generator (`make bench-triton`).

    python -m benchmarks perf_analyzer             measure (about 10 minutes) and print the tables
    python -m benchmarks perf_analyzer --write     the same, into docs/benchmarks.md, its plots and benchmarks/results/
    python -m benchmarks perf_analyzer --report    only write them again from benchmarks/results/perf.json

Both servers are the same Triton, with the same weights, on the same threads, and get the same file of requests: those
of the load benchmark, with 8, 20, 30 or 50 steps, each once at every load. Closed loop is a fixed number of requests at
once; open loop is Poisson arrivals, at rates that are shares of what gesso does one request after another. gesso's
caches are off.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from benchmarks.perf_analyzer import report
from benchmarks.perf_analyzer.measure import OPTIONS, measure
from benchmarks.perf_analyzer.requests import REQUESTS


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="at each load; a multiple of 4")
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/")
    parser.add_argument("--only", choices=list(OPTIONS), help="measure one model anew, into the stored results")
    parser.add_argument("--report", action="store_true", help="measure nothing; write from the stored results")
    options = parser.parse_args(arguments)
    if options.report:
        report.write(report.load())
        return 0
    record = report.load() if options.only else {"runs": []}
    for model in [options.only] if options.only else OPTIONS:
        record = measure(model, options.requests, record)
        if options.write:
            report.RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(report.markdown(record))
    if options.write:
        report.write(record)
    return 0
