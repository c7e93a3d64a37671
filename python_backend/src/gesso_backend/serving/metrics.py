"""What the server counts. Names and labels are in docs/api.md; Triton's own metrics endpoint shows them."""

from __future__ import annotations

from typing import Protocol


class Metrics(Protocol):
    def load(self, active_rows: int, queue_depth: int) -> None:
        """Rows of steps in flight, and requests that no network has run for yet."""

    def step(self, seconds: float, rows: int) -> None:
        """One call that is a step."""

    def stage(self, stage: str, seconds: float) -> None:
        """One stage of one request: queue, prepare, a network's name, composite."""

    def request(self, outcome: str) -> None:
        """One request ended: ok, or the error's code in lower case."""

    def cache_hit(self, stage: str) -> None:
        """A stage's answer came from a cache: a network's name, or response."""


class NoMetrics:
    def load(self, active_rows: int, queue_depth: int) -> None: ...

    def step(self, seconds: float, rows: int) -> None: ...

    def stage(self, stage: str, seconds: float) -> None: ...

    def request(self, outcome: str) -> None: ...

    def cache_hit(self, stage: str) -> None: ...
