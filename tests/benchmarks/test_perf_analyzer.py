"""`make bench-triton`: what is read from perf_analyzer's reports, and what is written from that."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.server import metric
from benchmarks.perf_analyzer import plots, report
from benchmarks.perf_analyzer.requests import input_file
from benchmarks.perf_analyzer.timings import PerfAnalyzerError, read_csv, read_export

SECOND = 10**9
CSV = """Concurrency,Inferences/Second,Server Queue,p50 latency,p90 latency,p95 latency,p99 latency,Avg latency
2,1.49726,10315,1091865,1319586,1319586,1319586,874161
"""
METRICS = """# TYPE gesso_rows_per_step histogram
gesso_rows_per_step_count{model="inpaint"} 10
gesso_rows_per_step_sum{model="inpaint"} 34
gesso_requests_total{model="inpaint",outcome="ok"} 7
gesso_requests_total{model="inpaint",outcome="invalid_arg"} 2
gesso_requests_total{model="other",outcome="ok"} 1
"""


def export(*requests: tuple[float, list[float]]) -> dict[str, Any]:
    """perf_analyzer's record of requests: (sent, answers), in seconds."""
    listed = [
        {"timestamp": int(sent * SECOND), "response_timestamps": [int(at * SECOND) for at in answers]}
        for sent, answers in requests
    ]
    return {"experiments": [{"experiment": {"mode": "concurrency", "value": 2}, "requests": listed}]}


def run(model: str, loop: str, load: float, mean: float) -> dict[str, Any]:
    return {
        "model": model, "loop": loop, "load": load, "requests": 4, "per_second": 2.0, "mean": mean, "p50": mean,
        "p90": mean, "longest": mean, "first": 0.25 if model == "inpaint" else None, "in_flight": 2 * mean,
        "rows_per_step": None if model == "pipeline" else 3.5, "command": f"perf_analyzer -m {model} {loop} {load}",
        "csv": read_csv(CSV),
    }  # fmt: skip


def record() -> dict[str, Any]:
    means = {"inpaint_once": 0.5, "inpaint": 0.4, "pipeline": 1.0}
    loads = [("closed", 1), ("closed", 2), ("poisson", 1.0), ("poisson", 2.2)]
    return {
        "machine": {"cpu": "an abacus", "threads": 2, "triton": "2.51.0"},
        "loads": [0.5, 1.1],
        "rates": [1.0, 2.2],
        "runs": [run(model, loop, load, mean) for model, mean in means.items() for loop, load in loads],
        "curve": {"gesso": {"1": 0.010, "2": 0.016}, "pipeline": {"1": 0.020, "2": 0.040}},
    }


def test_a_latency_runs_to_the_last_response_of_a_request() -> None:
    """Of a stream the first response is an event: taken for the answer, a picture would seem done at its first step."""
    timings = read_export(export((10, [10.5, 11, 12]), (11, [11.25, 14])))
    assert timings.latencies == (2.0, 3.0)
    assert timings.firsts == (0.5, 0.25)
    assert timings.mean == 2.5
    assert timings.quantile(1.0) == 3.0


def test_throughput_counts_from_the_first_request_to_the_last_answer() -> None:
    """perf_analyzer divides by windows of whole seconds, which are longer than the run."""
    timings = read_export(export((10, [12]), (10, [11]), (12, [14])))
    assert timings.seconds == 4.0
    assert timings.per_second == 0.75
    assert timings.in_flight == pytest.approx((2 + 1 + 2) / 4)


@pytest.mark.parametrize("answers", [[(10, [])], [(10, [11]), (10, [])], []])
def test_a_run_with_an_unanswered_request_is_refused(answers: list[tuple[float, list[float]]]) -> None:
    """A server that drops requests would look fast."""
    with pytest.raises(PerfAnalyzerError):
        read_export(export(*answers))


def test_a_report_of_several_loads_is_refused() -> None:
    """Each load has its own counts of the server's; two in one report could not be told apart."""
    with pytest.raises(PerfAnalyzerError, match="found 2"):
        read_csv(CSV + CSV.splitlines()[1])
    assert read_csv(CSV)["Avg latency"] == "874161"


def test_requests_are_listed_as_perf_analyzer_reads_them() -> None:
    """A picture's shape is lost in JSON unless it is said; texts are strings, not bytes."""
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    data = json.loads(input_file([{"image": image, "prompt": np.array([b"a boat"], np.object_)}]))
    assert data["data"] == [
        {
            "image": {"content": list(range(12)), "shape": [2, 2, 3]},
            "prompt": {"content": ["a boat"], "shape": [1]},
        }
    ]


def test_metrics_are_summed_over_the_labels_that_are_not_asked_for() -> None:
    """Refused requests counted among the answered would hide that a run failed."""
    assert metric(METRICS, "gesso_rows_per_step_sum") == 34
    assert metric(METRICS, "gesso_requests_total", outcome="ok") == 8
    assert metric(METRICS, "gesso_requests_total", outcome="ok", model="other") == 1
    assert metric(METRICS, "gesso_requests") == 0


def test_the_table_sets_every_run_beside_the_peer() -> None:
    """The ratio is the result: it must be the peer's mean over the run's own, at the same load."""
    page = report.markdown(record())
    lines = [line for line in page.splitlines() if line.startswith(("| 1 |", "| 2 |", "| 1.00", "| 2.20"))]
    assert len(lines) == 12
    assert [line.split("|")[-2].strip() for line in lines[:3]] == ["2.00", "2.50", ""]
    assert "| 2.20 (1.1 of gesso's serial rate) | inpaint_once | 2.00 | 0.50 s" in page
    assert "| gesso (ONNX Runtime) | 10.00 | 8.00 |" in page
    assert "cpu an abacus, threads 2, triton 2.51.0." in page


def test_the_csv_names_every_command() -> None:
    """A number that nobody can measure again is worth nothing."""
    found = record()
    rows = list(csv.DictReader(io.StringIO(report.csv_of(found["runs"]))))
    assert [row["command"] for row in rows] == [run["command"] for run in found["runs"]]


def test_the_csv_has_a_line_for_every_run_and_the_columns_of_both() -> None:
    """perf_analyzer's own columns differ between closed and open loop."""
    found = record()
    found["runs"][0]["csv"] = {"Request Rate": "2.5"}
    rows = list(csv.DictReader(io.StringIO(report.csv_of(found["runs"]))))
    assert len(rows) == 12
    assert rows[0]["Request Rate [perf_analyzer]"] == "2.5"
    assert rows[1]["Avg latency [perf_analyzer]"] == "874161"
    assert rows[1]["mean"] == "0.5"


def test_writing_touches_nothing_outside_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is written by hand, and by other benchmarks, around this section."""
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{report.MARK}\nold\n{report.MARK}\nafter\n")
    for name, path in {"PAGE": page, "IMAGES": tmp_path / "images", "TABLE": tmp_path / "perf.csv"}.items():
        monkeypatch.setattr(report, name, path)
    monkeypatch.setattr(plots, "draw", lambda record, folder: [])
    report.write(record())
    text = page.read_text()
    assert text.startswith(f"before\n{report.MARK}\n| closed loop")
    assert text.endswith(f"{report.MARK}\nafter\n")
    assert "old" not in text


@pytest.mark.slow  # for which matplotlib is installed
def test_plots_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    """A plot with a date or random ids in it changes in every commit."""
    first = {path.name: path.read_bytes() for path in plots.draw(record(), tmp_path)}
    second = {path.name: path.read_bytes() for path in plots.draw(record(), tmp_path)}
    assert set(first) == {"bench-latency.svg", "bench-rows.svg", "bench-batching.svg"}
    assert first == second
    assert all(content.startswith(b"<?xml") for content in first.values())
