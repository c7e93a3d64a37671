"""The report: a page, and the same as JSON."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.targets import Judged, judged
from benchmarks.harness import page
from benchmarks.harness.machine import threads, versions, words

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "cuda-python", "polygraphy", "numpy")


def write(out: Path, device: str, findings: Sequence[Findings], dry_run: bool) -> str:
    """Write both into `out`; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    name = "gpu-" + ("dry-run" if dry_run else re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower())
    about = {"device": device, "cores": threads(), "python": platform.python_version(), **versions(PACKAGES)}
    record = {"about": about, "findings": [asdict(found) for found in findings]}
    (out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    text = markdown(about, findings, judged(findings, device))
    (out / f"{name}.md").write_text(text)
    return text


def markdown(about: Mapping[str, Any], findings: Sequence[Findings], targets: Sequence[Judged]) -> str:
    names = [name for name in Findings.__dataclass_fields__ if name not in ("model", "engine", "notes")]
    found = page.table(
        ["", *(f"{each.model}, {each.engine}" for each in findings)],
        [[name, *(shown(getattr(each, name)) for each in findings)] for name in names],
    )
    verdicts = {None: "not judged", True: "yes", False: "**no**"}
    held = page.table(
        ["model", "engine", "target", "", "found", "met"],
        [[t.model, t.engine, t.what, t.target, shown(t.value), verdicts[t.met]] for t in targets],
    )
    notes = "\n".join(f"- {each.model}, {each.engine}: {note}" for each in findings for note in each.notes)
    versions = words({key: value for key, value in about.items() if key != "device"})
    return "\n\n".join([f"# {about['device']}", f"{versions}.", found, held, notes]) + "\n"


def shown(value: Any) -> str:
    if value is None:
        return "not run"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
