"""The table of what was measured, each value beside its target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.machine import line

MARK = "<!-- measured by `make eval-demo-model` -->"


@dataclass(frozen=True)
class Row:
    """One value. Without `least` and `most` it has no target, and is there to be read."""

    task: str
    what: str
    value: float
    unit: str  # "%" for a share of 0..1
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        if self.least is None and self.most is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def cells(self) -> tuple[str, str, str, str, str]:
        bounds = [(sign, bound) for sign, bound in (("≥", self.least), ("≤", self.most)) if bound is not None]
        target = ", ".join(f"{sign} {_text(bound, self.unit)}" for sign, bound in bounds)
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return (self.task, self.what, _text(self.value, self.unit), target, met)


def markdown(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    table = page.table(["task", "what", "measured", "target", "met"], [row.cells() for row in rows])
    return f"{table}\n\n{line(machine)}"


def write_page(path: Path, table: str) -> None:
    """Put the table between the two marks of the page."""
    page.put(path, MARK, table)


def write_results(path: Path, rows: Sequence[Row], machine: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Everything as JSON, the table's rows and what each picture gave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rows": [{**asdict(row), "met": row.met} for row in rows], **details}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _text(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.1%}"
    return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.2f} {unit}"
