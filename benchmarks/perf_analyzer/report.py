"""The tables of docs/benchmarks.md, a CSV and plots, from the record of what was measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.machine import line
from benchmarks.harness.paths import DOCS, RESULTS
from benchmarks.perf_analyzer import plots

PAGE = DOCS / "benchmarks.md"
IMAGES = DOCS / "images"
RESULT = RESULTS / "perf.json"
TABLE = RESULT.with_suffix(".csv")
MARK = "<!-- measured by `make bench-triton` -->"
MODELS = ("inpaint_once", "inpaint", "pipeline")
TITLES = {"inpaint_once": "inpaint_once", "inpaint": "inpaint, streaming", "pipeline": "diffusers pipeline"}
COLUMNS = ("model", "loop", "load", "requests", "per_second", "mean", "p50", "p90", "longest", "first", "in_flight",
           "rows_per_step", "command")  # fmt: skip


def write(record: Mapping[str, Any]) -> None:
    """The table, the plots and the section of the page between its marks."""
    TABLE.write_text(csv_of(record["runs"]))
    IMAGES.mkdir(exist_ok=True)
    plots.draw(record, IMAGES)
    page.put(PAGE, MARK, markdown(record))


def csv_of(runs: Iterable[Mapping[str, Any]]) -> str:
    """Every run; the columns that end in a bracket are perf_analyzer's own, in microseconds."""
    rows = [
        {column: run[column] for column in COLUMNS}
        | {f"{key} [perf_analyzer]": value for key, value in run["csv"].items()}
        for run in runs
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = _Lines()
    writer = csv.DictWriter(lines, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return "".join(lines)


class _Lines(list[str]):
    def write(self, line: str) -> None:
        self.append(line)


def markdown(record: Mapping[str, Any]) -> str:
    runs = record["runs"]
    parts = [
        _loop(runs, "closed", "closed loop, at once", lambda load: f"{load:g}"),
        _loop(runs, "poisson", "Poisson, requests a second", _share(record)),
        "![latency against throughput](images/bench-latency.svg)",
        "![rows per step](images/bench-rows.svg)",
        "![the batching curve](images/bench-batching.svg)",
        _curve(record["curve"]),
        line(record["machine"]),
    ]
    return "\n\n".join(parts)


def _share(record: Mapping[str, Any]) -> Any:
    shares = dict(zip(record["rates"], record["loads"], strict=True))
    return lambda load: f"{load:.2f} ({shares[load]:g} of gesso's serial rate)"


def _loop(runs: Iterable[Mapping[str, Any]], loop: str, title: str, show: Any) -> str:
    """A line for each load and model, and how many times the peer's figures are ours."""
    heads = [title, "model", "answered a second", "mean", "p50", "p90", "longest", "first event", "rows a step"]
    rows = []
    by_load: dict[float, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        if run["loop"] == loop:
            by_load.setdefault(run["load"], {})[run["model"]] = run
    for load, models in sorted(by_load.items()):
        for model in (name for name in MODELS if name in models):
            run = models[model]
            seconds = [f"{run[key]:.2f} s" for key in ("mean", "p50", "p90", "longest")]
            first = "" if run["first"] is None else f"{run['first']:.2f} s"
            batch = "" if run["rows_per_step"] is None else f"{run['rows_per_step']:.2f}"
            peer = models["pipeline"]["mean"] if model != "pipeline" and "pipeline" in models else None
            ratio = "" if peer is None else f"{peer / run['mean']:.2f}"
            rows.append([show(load), TITLES[model], f"{run['per_second']:.2f}", *seconds, first, batch, ratio])
    return page.table([*heads, "pipeline's mean / this"], rows)


def _curve(curve: Mapping[str, Mapping[Any, float]]) -> str:
    sizes = [*curve["gesso"]]
    titles = {"gesso": "gesso (ONNX Runtime)", "pipeline": "diffusers pipeline (torch)"}
    rows = [
        [title, *(f"{curve[name][size] / int(size) * 1000:.2f}" for size in sizes)]
        for name, title in titles.items()
        if name in curve
    ]
    return page.table(["ms a row, rows in a denoiser call", *sizes], rows)


def load(path: Path = RESULT) -> Any:
    return json.loads(path.read_text())
