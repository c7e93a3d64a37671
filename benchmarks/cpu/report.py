"""The table of docs/cpu.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.cpu.compare import REPEATS
from benchmarks.cpu.variant import VARIANTS
from benchmarks.harness import page


def markdown(results: Mapping[str, Any]) -> str:
    heads = ["variant"]
    for size in REPEATS:
        heads += [f"served, {8 * size} px", "variant", "faster by"]
    rows = []
    for name in VARIANTS:
        if name in results:
            runs = [results[name].get(str(size)) for size in REPEATS]
            rows.append([results[name]["title"], *(cell for run in runs for cell in cells(run))])
    return page.table(heads, rows)


def cells(run: Mapping[str, float] | None) -> list[str]:
    if run is None:
        return ["", "", ""]
    return [f"{run['served']:.3f} s", f"{run['variant']:.3f} s", f"{run['faster']:.2f}x"]
