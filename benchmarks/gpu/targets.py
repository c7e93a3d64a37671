"""What is asked of an H100."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.findings import Findings

TARGETS = {
    ("sd15", "lone_seconds"): ("at most", 0.50),
    ("sd15", "batching_gain"): ("at least", 2.0),
    ("sdxl", "lone_seconds"): ("at most", 1.6),
    ("*", "overhead"): ("at most", 0.05),
    ("*", "idle_between_steps"): ("at most", 0.03),
}


@dataclass(frozen=True)
class Judged:
    """A target beside what was found. met: None where it was not measured, or this is no H100."""

    model: str
    engine: str
    what: str
    target: float
    value: float | None
    met: bool | None


def judged(findings: Sequence[Findings], device: str) -> list[Judged]:
    rows = []
    for found in findings:
        for (model, name), (sense, target) in TARGETS.items():
            if model in (found.model, "*"):
                value, met = getattr(found, name), None
                if value is not None and "H100" in device:
                    met = value <= target if sense == "at most" else value >= target
                rows.append(Judged(found.model, found.engine, f"{name} {sense}", target, value, met))
    return rows
