"""Where a server's time outside the engines goes, for docs/overhead.md (`make bench-overhead`).

    python -m benchmarks overhead                      the shipped model, and SD 1.5's size (10 GB of memory)
    python -m benchmarks overhead --sizes shipped      the shipped model alone
    python -m benchmarks overhead --write              into docs/overhead.md and benchmarks/results/

Latency of an event: from the end of the engine call of its step, in the server, until the client's iterator gives it,
in another process; one clock. Processor time: by thread, from /proc; inside the loop's thread what it spends in engine
calls is taken off. py-spy looks at a server as it is shipped; the rest at one with model.py's stopwatch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.artefacts import random_bundle, shipped
from benchmarks.harness.machine import machine
from benchmarks.harness.paths import DOCS, RESULTS
from benchmarks.overhead import report
from benchmarks.overhead.clients import SD15, SHIPPED
from benchmarks.overhead.measure import measure, profile

FILE = RESULTS / "overhead.json"
PAGE = DOCS / "overhead.md"
MARK = "<!-- measured by `make bench-overhead` -->"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["shipped", "sd15"], choices=["shipped", "sd15"])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/overhead.md")
    options = parser.parse_args(arguments)
    record = json.loads(FILE.read_text()) if FILE.exists() else {}
    record["machine"] = machine()
    if "shipped" in options.sizes:
        record["shipped"] = measure(SHIPPED, shipped())
        save(record, options.write)
        record["profile"] = profile(SHIPPED, shipped())
        save(record, options.write)
    if "sd15" in options.sizes:
        record["sd15"] = measure(SD15, random_bundle("bench-sd15", "sd15"))
        save(record, options.write)
    print(report.markdown(record))
    return 0


def save(record: Mapping[str, Any], write: bool) -> None:
    """What is measured so far: a run that fails later has not been for nothing."""
    if write:
        FILE.write_text(json.dumps(record, indent=1) + "\n")
        page.put(PAGE, MARK, report.markdown(record))
