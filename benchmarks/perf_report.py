"""The report of perf.py: tables, a CSV and plots, from its record."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import plots
from bench import put

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "benchmarks" / "results" / "perf.json"
TABLE = RESULTS.with_suffix(".csv")
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
    put(PAGE, MARK, markdown(record))


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
        _commands(runs),
        "Machine and versions: " + ", ".join(f"{key} {value}" for key, value in record["machine"].items()) + ".",
    ]
    return "\n\n".join(parts)


def _share(record: Mapping[str, Any]) -> Any:
    shares = dict(zip(record["rates"], record["loads"], strict=True))
    return lambda load: f"{load:.2f} ({shares[load]:g} of gesso's serial rate)"


def _loop(runs: Iterable[Mapping[str, Any]], loop: str, title: str, show: Any) -> str:
    """A line for each load and model, and how many times the peer's figures are ours."""
    head = f"| {title} | model | answered a second | mean | p50 | p90 | longest | first event | rows a step "
    lines = [head + "| pipeline's mean / this |", "|---" * 10 + "|"]
    by_load: dict[float, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        if run["loop"] == loop:
            by_load.setdefault(run["load"], {})[run["model"]] = run
    for load, models in sorted(by_load.items()):
        for model in (name for name in MODELS if name in models):
            run = models[model]
            seconds = [f"{run[key]:.2f} s" for key in ("mean", "p50", "p90", "longest")]
            first = "" if run["first"] is None else f"{run['first']:.2f} s"
            rows = "" if run["rows_per_step"] is None else f"{run['rows_per_step']:.2f}"
            ratio = (
                ""
                if model == "pipeline" or "pipeline" not in models
                else f"{models['pipeline']['mean'] / run['mean']:.2f}"
            )
            cells = [show(load), TITLES[model], f"{run['per_second']:.2f}", *seconds, first, rows, ratio]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _curve(curve: Mapping[str, Mapping[Any, float]]) -> str:
    rows = [*curve["gesso"]]
    lines = [f"| ms a row, rows in a denoiser call | {' | '.join(map(str, rows))} |", "|---" * (len(rows) + 1) + "|"]
    for name, title in (("gesso", "gesso (ONNX Runtime)"), ("pipeline", "diffusers pipeline (torch)")):
        if name not in curve:
            continue
        lines.append(f"| {title} | " + " | ".join(f"{curve[name][r] / int(r) * 1000:.2f}" for r in rows) + " |")
    return "\n".join(lines)


def _commands(runs: Iterable[Mapping[str, Any]]) -> str:
    """The exact commands, one of each load (HOST:PORT was a free port of the loopback)."""
    return "\n".join(["```", *(run["command"] for run in runs), "```"])


def load(path: Path = RESULTS) -> Any:
    return json.loads(path.read_text())
