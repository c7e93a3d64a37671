"""Triton's custom metrics, on families that remember what they were told."""

from __future__ import annotations

from typing import Any

from gesso_backend.triton.metrics import TritonMetrics


class FakeMetric:
    def __init__(self, labels: dict[str, str], buckets: list[float] | None = None) -> None:
        self.labels = labels
        self.buckets = buckets
        self.told: list[tuple[str, float]] = []

    def set(self, value: float) -> None:
        self.told.append(("set", value))

    def observe(self, value: float) -> None:
        self.told.append(("observe", value))

    def increment(self, value: float) -> None:
        self.told.append(("increment", value))


class FakeFamily:
    """Stands in for pb_utils.MetricFamily, its kinds included."""

    GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.metrics: dict[str, list[FakeMetric]] = {}

    def __call__(self, name: str, description: str, kind: str) -> Any:
        assert description
        self.kinds[name] = kind
        metrics = self.metrics[name] = []

        class Family:
            def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> FakeMetric:
                metrics.append(FakeMetric(labels, buckets))
                return metrics[-1]

        return Family()


def test_the_families_are_those_of_the_contract() -> None:
    """Guards the names and kinds that dashboards are built on."""
    family = FakeFamily()
    TritonMetrics(family, "inpaint")
    assert family.kinds == {
        "gesso_active_rows": "gauge",
        "gesso_queue_depth": "gauge",
        "gesso_step_seconds": "histogram",
        "gesso_rows_per_step": "histogram",
        "gesso_cache_hits_total": "counter",
        "gesso_stage_seconds": "histogram",
        "gesso_requests_total": "counter",
    }


def test_every_metric_says_which_model_it_is_of() -> None:
    """Guards servers of several bundles; and histograms, which Triton wants with rising buckets."""
    family = FakeFamily()
    metrics = TritonMetrics(family, "portrait")
    metrics.stage("unet", 0.5)
    metrics.request("ok")
    for name, made in family.metrics.items():
        for metric in made:
            assert metric.labels["model"] == "portrait"
            if family.kinds[name] == "histogram":
                assert metric.buckets == sorted(set(metric.buckets or []))
                assert metric.buckets
            else:
                assert metric.buckets is None


def test_gauges_are_set_only_when_they_change() -> None:
    """Guards the round trip to the server, fifty times a second, for nothing."""
    family = FakeFamily()
    metrics = TritonMetrics(family, "inpaint")
    for rows, queued in ((0, 0), (0, 0), (2, 0), (2, 1), (2, 1), (0, 0)):
        metrics.load(rows, queued)
    assert [value for _, value in family.metrics["gesso_active_rows"][0].told] == [0, 2, 0]
    assert [value for _, value in family.metrics["gesso_queue_depth"][0].told] == [0, 1, 0]


def test_stages_and_outcomes_are_labels_made_once() -> None:
    """Guards against a new series for each request."""
    family = FakeFamily()
    metrics = TritonMetrics(family, "inpaint")
    for outcome in ("ok", "cancelled", "ok"):
        metrics.request(outcome)
    for stage in ("unet", "unet", "queue"):
        metrics.stage(stage, 0.25)
    metrics.step(0.5, 4)
    outcomes = {metric.labels["outcome"]: metric.told for metric in family.metrics["gesso_requests_total"]}
    assert outcomes == {"ok": [("increment", 1)] * 2, "cancelled": [("increment", 1)]}
    stages = {metric.labels["stage"]: metric.told for metric in family.metrics["gesso_stage_seconds"]}
    assert stages == {"unet": [("observe", 0.25)] * 2, "queue": [("observe", 0.25)]}
    assert family.metrics["gesso_step_seconds"][0].told == [("observe", 0.5)]
    assert family.metrics["gesso_rows_per_step"][0].told == [("observe", 4)]
