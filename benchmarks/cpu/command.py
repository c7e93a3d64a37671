"""What the CPU can do, and what the UNet gets out of it: the trial behind docs/cpu.md.

    python -m benchmarks cpu peak                        the machine: multiply-adds in registers, matrix products
    python -m benchmarks cpu try --variants spinning     one or more variants against the engine as it is served
    python -m benchmarks cpu batch                       is a row's answer the same in every batch?
    python -m benchmarks cpu write                       the table of docs/cpu.md

By hand: all of it takes half an hour. The UNet is Stable Diffusion 1.5's, with two rows, as guidance has them. A
variant and the engine as it is served stand loaded in two processes and alternate, call by call, so that a machine that
slows down slows both; what counts is the median of the ratios. OpenVINO is taken from the environment that `python -m
benchmarks peers prepare` makes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.cpu.compare import REPEATS, batch, compare
from benchmarks.cpu.operations import operations
from benchmarks.cpu.peak import peak
from benchmarks.cpu.report import markdown
from benchmarks.cpu.variant import VARIANTS
from benchmarks.harness import page
from benchmarks.harness.artefacts import random_bundle
from benchmarks.harness.paths import DOCS, RESULTS

FILE = RESULTS / "cpu-engine.json"
PAGE = DOCS / "cpu.md"
MARK = "<!-- measured by `python -m benchmarks cpu` -->"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("peak", "write", "batch"):
        commands.add_parser(name)
    trying = commands.add_parser("try")
    trying.add_argument("--variants", nargs="+", default=[name for name in VARIANTS if name != "served"])
    trying.add_argument("--latents", nargs="+", type=int, default=list(REPEATS))
    options = parser.parse_args(arguments)
    if options.command == "write":
        page.put(PAGE, MARK, markdown(json.loads(FILE.read_text())))
        return 0
    bundle = random_bundle("bench-sd15", "sd15")
    if options.command == "peak":
        save("peak", peak())
        save("operations", {side: operations(bundle, side) for side in REPEATS})
    elif options.command == "batch":
        save("batch", {name: batch(bundle, name) for name in ("served", "attention", "openvino")})
    else:
        for name in options.variants:
            save(name, compare(bundle, name, options.latents))
    return 0


def save(key: str, value: Any) -> None:
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    old = results.get(key)
    results[key] = {**old, **value} if isinstance(old, dict) else value
    FILE.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({key: value}), flush=True)
