"""The scheduler under load: the shipped model, a real Triton, Poisson arrivals, the SDK (`make bench-load`).

    python -m benchmarks load                  about half an hour
    python -m benchmarks load --requests 60    a quick look; too few for a 99th percentile

Every policy gets the same requests at the same moments: at LOAD of what the server can do one request at a time, with
8, 20, 30 or 50 steps. A latency runs from the moment a request was due to be sent until its picture is here.
Caches are off. Every picture is compared with the one of the same request alone. The simulator is held against two of
the runs: see simulated.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from benchmarks.harness import page
from benchmarks.harness.paths import DOCS, RESULTS
from benchmarks.load.measure import measure, throughput
from benchmarks.load.report import markdown

PAGE = DOCS / "benchmarks.md"
MARK = "<!-- measured by `make bench-load` -->"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--throughput", action="store_true", help="only a full queue beside one after another, alternating"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    if options.throughput:
        print(json.dumps(throughput(), indent=2))
        return 0
    record = measure(options.requests, options.seed)
    tables = markdown(record)
    print(tables)
    if options.write:
        (RESULTS / "load.json").write_text(json.dumps(record, indent=2) + "\n")
        page.put(PAGE, MARK, tables)
    return 0 if record["different_bytes"] == 0 else 1
