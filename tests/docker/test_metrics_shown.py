"""Dashboard, alerts and autoscaler ask for metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gesso_backend.triton.metrics import TritonMetrics

DOCKER = Path(__file__).parents[2] / "docker"

# What Triton 24.10 shows of itself on a CPU, as docker/prove_cpu.py saved it (metrics.txt), and Prometheus's own.
TRITON = {f"nv_inference_{name}" for name in ("request_success", "request_failure", "count", "exec_count")}
TRITON |= {f"nv_inference_{stage}_duration_us" for stage in ("request", "queue", "compute_input", "compute_infer")}
TRITON |= {"nv_inference_compute_output_duration_us", "nv_inference_pending_request_count", "nv_cpu_utilization"}
TRITON |= {"nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes", "nv_pinned_memory_pool_total_bytes"}
TRITON |= {"nv_pinned_memory_pool_used_bytes"}
PROMETHEUS = {"up"}

PROMQL = {
    "and",
    "by",
    "or",
    "unless",
    "sum",
    "avg",
    "max",
    "min",
    "rate",
    "histogram_quantile",
    "label_values",
    "without",
}
_STRINGS = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"\{([^}]*)\}")
_GROUPS = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_DURATION = re.compile(r"\[[^\]]*\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Family:
    """Stands in for pb_utils.MetricFamily: keeps what is made."""

    GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
    made: dict[str, str]
    labels: set[str]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.made[name] = kind

    def Metric(self, labels: dict[str, str], **options: Any) -> Family:
        self.labels.update(labels)
        return self

    def observe(self, value: float) -> None: ...

    def increment(self, value: float) -> None: ...


@pytest.fixture(scope="module")
def gesso() -> type[Family]:
    """What metrics.py makes, by running it."""

    class Kept(Family):
        made: dict[str, str] = {}  # noqa: RUF012
        labels: set[str] = set()  # noqa: RUF012

    metrics = TritonMetrics(Kept, "inpaint")
    metrics.stage("queue", 1.0)
    metrics.request("ok")
    return Kept


def series(gesso: type[Family]) -> set[str]:
    """The names of time series, as Prometheus has them."""
    found = set(TRITON | PROMETHEUS)
    for name, kind in gesso.made.items():
        found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return found


def names(expression: str) -> set[str]:
    """The series that an expression asks for."""
    for cut in (_STRINGS, _SELECTOR, _GROUPS, _DURATION):
        expression = cut.sub(" ", expression)
    return {name for name in _NAME.findall(expression) if name not in PROMQL and not name.startswith("__")}


def labels(expression: str) -> set[str]:
    """The labels it selects or groups by."""
    inside = [_STRINGS.sub(" ", text) for text in _SELECTOR.findall(expression)] + _GROUPS.findall(expression)
    return {name for text in inside for name in _NAME.findall(text)}


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, expression)"""
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "gesso.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard: {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield (
                f"variable: {variable['name']}",
                variable["query"]["query"].split(",")[0].removeprefix("label_values("),
            )
    for group in yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert: {rule['alert']}", rule["expr"]
    for trigger in yaml.safe_load((DOCKER / "kubernetes" / "keda" / "scaling.yaml").read_text())["spec"]["triggers"]:
        yield "autoscaler", trigger["metadata"]["query"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_what_is_shown_exists(where: str, expression: str, gesso: type[Family]) -> None:
    """Guards against empty panels and an autoscaler that never moves, after a metric was renamed."""
    assert names(expression)
    assert names(expression) <= series(gesso)
    set_by_prometheus = {"job", "instance", "namespace", "le"}
    assert labels(expression) <= gesso.labels | set_by_prometheus | {"reason"}


def test_every_metric_of_ours_is_on_the_dashboard(gesso: type[Family]) -> None:
    shown = {name for where, text in expressions() if where.startswith("dashboard") for name in names(text)}
    assert set(gesso.made) <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def test_a_name_that_does_not_exist_is_found() -> None:
    """Guards against a reader of expressions that sees no names."""
    text = 'sum by (le, stage) (rate(gesso_nothing_bucket{model=~"$model",stage="x y"}[$__rate_interval])) / nv_x > 0.5'
    assert names(text) == {"gesso_nothing_bucket", "nv_x"}
    assert labels(text) == {"le", "stage", "model"}


def test_panels_do_not_overlap_and_have_their_own_ids() -> None:
    panels = json.loads((DOCKER / "grafana" / "dashboards" / "gesso.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
