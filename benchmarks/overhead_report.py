"""The tables of docs/overhead.md, from overhead.py's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CROWD = 4  # clients at once
SERVER = "tritonserver"  # its own process, which is not Python
TITLES = {"shipped": "the shipped model", "sd15": "SD 1.5's size"}
LATENCY_BAR, CPU_BAR = 0.005, 0.02  # seconds; of the processor time, at SD 1.5's size


def markdown(record: Mapping[str, Any]) -> str:
    sizes = [record[name] for name in TITLES if name in record]
    parts = [bars(record), latencies(sizes), processor(sizes)]
    if "profile" in record:
        parts.append(profiled(record["profile"]))
    parts.append("Machine and versions: " + ", ".join(f"{k} {v}" for k, v in record["machine"].items()) + ".")
    return "\n\n".join(parts)


def bars(record: Mapping[str, Any]) -> str:
    """Each bar, and whether it was met."""
    sizes = [record[name] for name in TITLES if name in record]
    lines = []
    for title, run in columns(sizes):
        p50 = run["latency"]["p50"]
        bar = f"{p50 * 1000:.2f} ms of {LATENCY_BAR * 1000:.0f}: {met(p50 < LATENCY_BAR)}"
        lines.append(f"- a progress event's latency (median), {title}: {bar}")
    for title, run in columns([record["sd15"]] if "sd15" in record else []):
        lines.append(f"- Python's share, {title}: {python(run):.2%} of {CPU_BAR:.0%}: {met(python(run) <= CPU_BAR)}")
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
    lines = [
        "| progress event, ms | " + " | ".join(title for title, _ in cells) + " |",
        "|---" * (len(cells) + 1) + "|",
    ]
    for key, title in (
        ("latency", "step's end to client"),
        ("to_send", "of it, until the server sends"),
        ("to_client", "of it, Triton, gRPC and SDK"),
    ):
        for cut in ("p50", "p99") if key != "latency" else ("p50", "p90", "p99", "longest"):
            row = [f"{run[key][cut] * 1000:.2f}" for _, run in cells]
            lines.append(f"| {title}, {cut} | " + " | ".join(row) + " |")
    lines.append("| events | " + " | ".join(str(run["latency"]["n"]) for _, run in cells) + " |")
    lines.append(
        "| between two engine calls, p50 | " + " | ".join(f"{r['between_calls_ms']:.2f}" for _, r in cells) + " |"
    )
    return "\n".join(lines)


def processor(sizes: Sequence[Mapping[str, Any]]) -> str:
    cells = columns(sizes)
    names = sorted({name for _, run in cells for name in run["cpu"]}, key=lambda n: -cells[0][1]["cpu"].get(n, 0))
    heads = " | ".join(title for title, _ in cells)
    lines = [f"| processor time | {heads} | nobody asks, ms a second |", "|---" * (len(cells) + 2) + "|"]
    for name in names:
        of = [f"{run['cpu'].get(name, 0) / sum(run['cpu'].values()):.2%}" for _, run in cells]
        lines.append(f"| {name} | " + " | ".join(of) + f" | {1000 * sizes[0]['idle'].get(name, 0):.1f} |")
    lines.append("| **Python** | " + " | ".join(f"**{python(run):.2%}**" for _, run in cells) + " | |")
    return "\n".join(lines)


def python(run: Mapping[str, Any]) -> float:
    """The share of all processor time that is neither the engine's nor of Triton's own process."""
    rest = sum(seconds for name, seconds in run["cpu"].items() if name not in ("engine", SERVER))
    return float(rest / sum(run["cpu"].values()))


def profiled(profile: Mapping[str, Any], least: float = 0.0005) -> str:
    rows = [(r["thread"], r["module"], r["share"]) for r in profile["rows"]]
    lines = ["| thread | module | share of the time |", "|---|---|---|"]
    lines += [f"| {thread} | {module} | {share:.2%} |" for thread, module, share in rows if share >= least]
    lines += [f"| all others | | {sum(share for *_, share in rows if share < least):.2%} |"]
    return "\n".join([*lines, f"| **any Python** | | **{profile['python']:.2%}** |"])
