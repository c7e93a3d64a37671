"""The table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.machine import line
from benchmarks.request.size import SIDE


@dataclass(frozen=True)
class Measured:
    """Medians, in seconds."""

    size: str
    steps: int
    gesso: float  # a request through SDK, gRPC and Triton
    diffusers: float  # the same request in the eager pipeline
    overhead: float  # request time less the engine calls in it
    loop_step: float  # a step inside the loop, from progress to progress
    bare_step: float  # the denoiser's engine call alone, on the same rows

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("gesso, end to end", f"{self.gesso:.3f} s"),
            ("diffusers, eager", f"{self.diffusers:.3f} s"),
            ("speed-up", f"{self.diffusers / self.gesso:.2f}x"),
            ("serving overhead of a request", f"{self.overhead * 1000:.1f} ms, {self.overhead / self.gesso:.2%}"),
            ("step inside the loop", f"{self.loop_step * 1000:.2f} ms"),
            ("bare engine call", f"{self.bare_step * 1000:.2f} ms"),
            ("loop / bare", f"{self.loop_step / self.bare_step:.3f}"),
        ]


def markdown(measured: Sequence[Measured], machine: Mapping[str, Any]) -> str:
    heads = [f"{SIDE} px, guidance 7.5", *(f"{m.size}, {m.steps} steps" for m in measured)]
    rows = [(same[0][0], *(value for _, value in same)) for same in zip(*(m.rows() for m in measured), strict=True)]
    return f"{page.table(heads, rows)}\n\n{line(machine)}"
