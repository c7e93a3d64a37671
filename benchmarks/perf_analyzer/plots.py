"""The plots of docs/benchmarks.md, from the record of what was measured. Needs matplotlib, which nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZE = (6.0, 3.6)  # inches
COLOURS = {"inpaint_once": "#1f6fb4", "inpaint": "#2a9d5b", "gesso": "#1f6fb4", "pipeline": "#c8553d"}
TITLES = {
    "inpaint_once": "gesso, inpaint_once",
    "inpaint": "gesso, inpaint (streaming)",
    "gesso": "gesso (ONNX Runtime)",
    "pipeline": "diffusers pipeline in Triton",
}
LOOPS = {"closed": ("closed loop", "o-"), "poisson": ("Poisson", "s--")}


def draw(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """latency, rows and batching, as SVG files in `folder`; the same record gives the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "gesso", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
    )
    return [_latency(record["runs"], folder), _rows(record["runs"], folder), _batching(record["curve"], folder)]


def _latency(runs: list[Mapping[str, Any]], folder: Path) -> Path:
    figure, axes = _figure("requests answered a second", "mean latency, s", "Latency against load")
    for loop, (title, style) in LOOPS.items():
        for model in ("inpaint_once", "inpaint", "pipeline"):
            own = [run for run in runs if (run["loop"], run["model"]) == (loop, model)]
            axes.plot(
                [run["per_second"] for run in own], [run["mean"] for run in own], style,
                color=COLOURS[model], label=f"{TITLES[model]}, {title}", markersize=4,
            )  # fmt: skip
    axes.set_ylim(bottom=0)
    return _save(figure, axes, folder / "bench-latency.svg")


def _rows(runs: list[Mapping[str, Any]], folder: Path) -> Path:
    figure, axes = _figure("requests in the server, on average", "rows in a denoiser call", "Rows per step")
    for loop, (title, style) in LOOPS.items():
        for model in ("inpaint_once", "inpaint"):
            own = sorted((r for r in runs if (r["loop"], r["model"]) == (loop, model)), key=lambda r: r["in_flight"])
            axes.plot(
                [run["in_flight"] for run in own], [run["rows_per_step"] for run in own], style,
                color=COLOURS[model], label=f"{TITLES[model]}, {title}", markersize=4,
            )  # fmt: skip
    axes.axhline(2, color=COLOURS["pipeline"], label=f"{TITLES['pipeline']}: one request's two")
    axes.set_ylim(bottom=0)
    return _save(figure, axes, folder / "bench-rows.svg")


def _batching(curve: Mapping[str, Mapping[Any, float]], folder: Path) -> Path:
    figure, axes = _figure("rows in a denoiser call", "ms a row", "What batching buys")
    for name, seconds in curve.items():
        rows = [int(row) for row in seconds]
        values = [1000 * value / row for value, row in zip(seconds.values(), rows, strict=True)]
        axes.plot(rows, values, "o-", color=COLOURS[name], label=TITLES[name], markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows, [str(row) for row in rows])
    axes.set_ylim(bottom=0)
    return _save(figure, axes, folder / "bench-batching.svg")


def _figure(x: str, y: str, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, title=title)
    return figure, axes


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.legend(fontsize=7)
    figure.savefig(path, format="svg", metadata={"Date": None})
    return path
