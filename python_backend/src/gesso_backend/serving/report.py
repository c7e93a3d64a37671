"""Where the time of a request went: accounted for while it runs, and told in its report and in the metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from gesso_backend.serving.metrics import Metrics
from gesso_backend.serving.outbox import Outbox

RESPONSE = "response"  # the stage of an answer that was cached as a whole


class Account:
    """Of one request. Written by whoever works for it at the time: the preparing worker, the loop, the outbox."""

    def __init__(self, clock: Callable[[], float], metrics: Metrics, outbox: Outbox) -> None:
        self.submitted = clock()
        self.started = False  # a network has run for it
        self.rows_in_flight = 0  # of its steps, all its pictures'
        self._clock = clock
        self._metrics = metrics
        self._outbox = outbox
        self._seconds: dict[str, float] = defaultdict(float)  # by stage
        self._cached: set[str] = set()  # stages answered from a cache
        self._calls = 0  # steps this request was part of
        self._rows = 0  # rows of those calls, all requests'

    def start(self, rows: int = 0) -> None:
        """Its first network call is about to run: the wait is over. Later calls do nothing. rows: of its steps."""
        if not self.started:
            self.started = True
            self.rows_in_flight = rows
            self.spend("queue", self._clock() - self.submitted - self._seconds["prepare"])

    def spend(self, stage: str, seconds: float) -> None:
        self._seconds[stage] += seconds

    def step(self, rows: int) -> None:
        """A step that it was part of has run, of so many rows."""
        self._calls += 1
        self._rows += rows

    def hit(self, stage: str) -> None:
        """The answer of a stage came from a cache."""
        self._cached.add(stage)
        self._outbox.post(lambda: self._metrics.cache_hit(stage))

    def observe(self) -> None:
        """Tell the metrics of its stages. On the outbox's thread."""
        for stage, seconds in self._seconds.items():
            self._metrics.stage(stage, seconds)

    def times(self) -> dict[str, Any]:
        return {
            "timings_ms": {stage: round(seconds * 1000, 3) for stage, seconds in self._seconds.items()},
            "queue_ms": round(self._seconds["queue"] * 1000, 3),
            "total_ms": round((self._clock() - self.submitted) * 1000, 3),
        }

    def report(self, priority: str, engines: Mapping[str, str]) -> dict[str, Any]:
        """Serving's part of a picture's report; engines: what runs each network."""
        return {
            **self.times(),
            "cached": sorted(self._cached),
            "priority": priority,
            "engines": dict(engines),
            "rows_per_step": round(self._rows / self._calls, 3) if self._calls else 0.0,
        }
