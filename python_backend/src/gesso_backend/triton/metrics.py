"""The server's counts in Triton's custom metrics, which its metrics endpoint shows."""

from __future__ import annotations

from typing import Any

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0]
ROWS = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0]


class RequestCount:
    """How the requests of a model ended.

    Each update is a round trip to the server process (about 0.1 ms), so none is made on the loop's thread.
    """

    def __init__(self, family: Any, model: str) -> None:
        """family: `pb_utils.MetricFamily`."""
        self._family = family
        self._families: list[Any] = []  # a family must outlive its metrics
        self._labels = {"model": model}
        self._by_label: dict[tuple[str, str], Any] = {}
        self._requests = self._make("gesso_requests_total", "Requests ended, by outcome", family.COUNTER)

    def request(self, outcome: str) -> None:
        key = ("outcome", outcome)
        if key not in self._by_label:
            self._by_label[key] = self._requests.Metric({**self._labels, "outcome": outcome})
        self._by_label[key].increment(1)

    def _make(self, name: str, description: str, kind: Any) -> Any:
        made = self._family(name=name, description=description, kind=kind)
        self._families.append(made)
        return made


class TritonMetrics(RequestCount):
    """Prometheus families of Triton's custom metrics API."""

    def __init__(self, family: Any, model: str) -> None:
        """family: `pb_utils.MetricFamily`."""
        super().__init__(family, model)
        self._gauges: dict[str, float] = {}
        make = self._make
        self._active_rows = make("gesso_active_rows", "Denoiser rows in flight", family.GAUGE).Metric(self._labels)
        self._queue_depth = make("gesso_queue_depth", "Requests that no network has run for yet", family.GAUGE).Metric(
            self._labels
        )
        self._step_seconds = make("gesso_step_seconds", "Duration of a denoiser call", family.HISTOGRAM).Metric(
            self._labels, buckets=SECONDS
        )
        self._rows_per_step = make("gesso_rows_per_step", "Rows in a denoiser call", family.HISTOGRAM).Metric(
            self._labels, buckets=ROWS
        )
        self._stage_seconds = make("gesso_stage_seconds", "Time of a request by stage", family.HISTOGRAM)
        self._cache_hits = make("gesso_cache_hits_total", "Answers that came from a cache, by stage", family.COUNTER)

    def load(self, active_rows: int, queue_depth: int) -> None:
        for name, metric, value in (
            ("rows", self._active_rows, active_rows),
            ("queue", self._queue_depth, queue_depth),
        ):
            if self._gauges.get(name) != value:
                self._gauges[name] = value
                metric.set(value)

    def step(self, seconds: float, rows: int) -> None:
        self._step_seconds.observe(seconds)
        self._rows_per_step.observe(rows)

    def stage(self, stage: str, seconds: float) -> None:
        key = ("stage", stage)
        if key not in self._by_label:
            labels = {**self._labels, "stage": stage}
            self._by_label[key] = self._stage_seconds.Metric(labels, buckets=SECONDS)
        self._by_label[key].observe(seconds)

    def cache_hit(self, stage: str) -> None:
        key = ("cache", stage)
        if key not in self._by_label:
            self._by_label[key] = self._cache_hits.Metric({**self._labels, "stage": stage})
        self._by_label[key].increment(1)
