"""One request, beside the diffusers pipeline: same weights, steps and threads, in one run (`make bench`).

    python -m benchmarks request                    both sizes (SD 1.5's needs 10 GB of disk and of memory)
    python -m benchmarks request --sizes tiny       the tiny one alone

Every figure is a median of REPEATS; the two sides alternate, so that a noisy machine disturbs both alike. gesso is
timed as its users see it: through the SDK, gRPC and a real Triton. Absolute times depend on the machine; the ratios
are what is published.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from benchmarks.harness import page
from benchmarks.harness.artefacts import random_bundle, random_checkpoint
from benchmarks.harness.machine import machine
from benchmarks.harness.paths import DOCS, RESULTS
from benchmarks.request.end_to_end import side_by_side
from benchmarks.request.report import Measured, markdown
from benchmarks.request.size import SIZES, Size
from benchmarks.request.step import step_times

PAGE = DOCS / "benchmarks.md"
MARK = "<!-- measured by `make bench` -->"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    presets = [size.preset for size in SIZES]
    parser.add_argument("--sizes", nargs="+", default=presets, choices=presets)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    measured = [measure(size) for size in SIZES if size.preset in options.sizes]
    table = markdown(measured, machine())
    print(table)
    if options.write:
        record = {"machine": machine(), "measured": [asdict(m) for m in measured]}
        (RESULTS / "first-numbers.json").write_text(json.dumps(record, indent=2) + "\n")
        page.put(PAGE, MARK, table)
    return 0


def measure(size: Size) -> Measured:
    name = f"bench-{size.preset}"
    checkpoint, bundle = random_checkpoint(name, size.preset), random_bundle(name, size.preset)
    ours, theirs, overheads = side_by_side(size, checkpoint, bundle)
    loop_step, bare_step = step_times(size, bundle)
    return Measured(size.name, size.steps, median(ours), median(theirs), median(overheads), loop_step, bare_step)
