"""The tables of docs/overhead.md, from the record of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import page
from benchmarks.harness.machine import line
from benchmarks.harness.processes import TRITON
from benchmarks.overhead.clients import CROWD

TITLES = {"shipped": "the shipped model", "sd15": "SD 1.5's size"}
LATENCY_TARGET, CPU_TARGET = 0.005, 0.02  # seconds; of the processor time, at SD 1.5's size


def markdown(record: Mapping[str, Any]) -> str:
    sizes = [record[name] for name in TITLES if name in record]
    parts = [targets(record), latencies(sizes), processor(sizes)]
    if "profile" in record:
        parts.append(profiled(record["profile"]))
    parts.append(line(record["machine"]))
    return "\n\n".join(parts)


def targets(record: Mapping[str, Any]) -> str:
    """Each target, and whether it was met."""
    sizes = [record[name] for name in TITLES if name in record]
    lines = []
    for title, run in columns(sizes):
        p50 = run["latency"]["p50"]
        found = f"{p50 * 1000:.2f} ms of {LATENCY_TARGET * 1000:.0f}: {met(p50 < LATENCY_TARGET)}"
        lines.append(f"- a progress event's latency (median), {title}: {found}")
    for title, run in columns([record["sd15"]] if "sd15" in record else []):
        lines.append(
            f"- Python's share, {title}: {python(run):.2%} of {CPU_TARGET:.0%}: {met(python(run) <= CPU_TARGET)}"
        )
    modules = sorted({name for size in sizes for name in size["picture_modules"]})
    formats = [name for name in modules if name.endswith("Plugin") or not name.startswith("PIL")]
    lines.append(f"- modules of picture formats in the server's process: {', '.join(formats) or 'none'}")
    return "\n".join(lines)


def met(passed: bool) -> str:
    return "met" if passed else "**missed**"


def columns(sizes: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, run), one client and then the crowd of each size."""
    clients = {"alone": "1 client", "crowd": f"{CROWD} clients"}
    return [(f"{TITLES[size['size']['name']]}, {n}", size[run]) for size in sizes for run, n in clients.items()]


def latencies(sizes: Sequence[Mapping[str, Any]]) -> str:
    cells = columns(sizes)
    rows: list[list[object]] = []
    for key, title in (
        ("latency", "step's end to client"),
        ("to_send", "its first part: until the server sends"),
        ("to_client", "the rest: Triton, gRPC and SDK"),
    ):
        for cut in ("p50", "p99") if key != "latency" else ("p50", "p90", "p99", "longest"):
            rows.append([f"{title}, {cut}", *(f"{run[key][cut] * 1000:.2f}" for _, run in cells)])
    rows.append(["events", *(run["latency"]["n"] for _, run in cells)])
    rows.append(["between two engine calls, p50", *(f"{run['between_calls_ms']:.2f}" for _, run in cells)])
    return page.table(["progress event, ms", *(title for title, _ in cells)], rows)


def processor(sizes: Sequence[Mapping[str, Any]]) -> str:
    cells = columns(sizes)
    names = sorted({name for _, run in cells for name in run["cpu"]}, key=lambda n: -cells[0][1]["cpu"].get(n, 0))
    heads = ["processor time", *(title for title, _ in cells), "nobody asks, ms a second"]
    rows = [
        [
            name,
            *(f"{run['cpu'].get(name, 0) / sum(run['cpu'].values()):.2%}" for _, run in cells),
            f"{1000 * sizes[0]['idle'].get(name, 0):.1f}",
        ]
        for name in names
    ]
    last = "| **Python** | " + " | ".join(f"**{python(run):.2%}**" for _, run in cells) + " | |"
    return f"{page.table(heads, rows)}\n{last}"


def python(run: Mapping[str, Any]) -> float:
    """The share of all processor time that is neither the engine's nor of Triton's own process."""
    rest = sum(seconds for name, seconds in run["cpu"].items() if name not in ("engine", TRITON))
    return float(rest / sum(run["cpu"].values()))


def profiled(profile: Mapping[str, Any], least: float = 0.0005) -> str:
    rows = [(row["thread"], row["module"], row["share"]) for row in profile["rows"]]
    shown = [[thread, module, f"{share:.2%}"] for thread, module, share in rows if share >= least]
    lines = [page.table(["thread", "module", "share of the time"], shown)]
    lines += [f"| all others | | {sum(share for *_, share in rows if share < least):.2%} |"]
    return "\n".join([*lines, f"| **any Python** | | **{profile['python']:.2%}** |"])
