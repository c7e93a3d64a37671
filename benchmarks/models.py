"""The tables of docs/models.md and README.md: which model does what, and what each claim rests on.

    python -m benchmarks models --write RESULTS     new results of the parity tests (GESSO_PARITY=RESULTS pytest ...)
    python -m benchmarks models --check RESULTS     fail if they, or the pages, are not those in the repository

What is offered comes from the exporter's code, what is proved from the tests' results, what was done at full size from
benchmarks/results/full-size.json and from the architectures that `gesso-export check-architecture` knows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import page
from benchmarks.harness.paths import DOCS, RESULTS, ROOT
from gesso_export.bundle.parameters import FLOW_SAMPLERS, SAMPLERS
from gesso_export.precision import PRECISIONS
from gesso_export.published.models import MODELS as PUBLISHED

PAGE, README = DOCS / "models.md", ROOT / "README.md"
PARITY, FULL_SIZE = RESULTS / "parity.json", RESULTS / "full-size.json"
MARK = "<!-- made by benchmarks/models.py -->"
TASKS = ("inpaint", "image_to_image", "text_to_image")

Cases = set[tuple[str, str, str]]  # model, task, scheduler


@dataclass(frozen=True)
class Kind:
    """One row of the README: checkpoints that behave alike."""

    title: str
    models: tuple[str, ...]  # as the parity tests call them
    architectures: tuple[str, ...]  # as check-architecture calls them
    native: bool  # trained on masks
    samplers: tuple[str, ...] = SAMPLERS
    precisions: tuple[str, ...] = ("fp32", "fp16")


ALL = tuple(PRECISIONS)

KINDS = (
    Kind(
        "Stable Diffusion 1.x, 2.x inpainting",
        ("sd-inpaint",),
        ("sd15-inpaint", "sd2-inpaint"),
        True,
        precisions=ALL,
    ),
    Kind("Stable Diffusion 1.x, 2.x", ("sd-plain",), ("sd15", "sd21"), False, precisions=ALL),
    Kind("SDXL inpainting", ("sdxl-inpaint",), ("sdxl-inpaint",), True),
    Kind("SDXL", ("sdxl",), ("sdxl",), False),
    Kind("SDXL-Turbo", ("turbo",), ("sdxl-turbo",), False),
    Kind("FLUX.1 Fill", ("flux-fill",), ("flux-fill",), True, FLOW_SAMPLERS),
    Kind("FLUX.1 dev", ("flux-dev",), ("flux-dev",), False, FLOW_SAMPLERS),
    Kind("FLUX.1 schnell", ("flux-schnell",), ("flux-schnell",), False, FLOW_SAMPLERS),
)


def overview(cases: Cases) -> str:
    """A line for each kind of model."""
    heads = ("model", "inpainting", "equals diffusers", "exports in", "architecture checked", "at full size")
    rows, full = [], _full_size()
    for kind in KINDS:
        proved = [task.replace("_", "-") for task in TASKS if any(m in kind.models and t == task for m, t, _ in cases)]
        checked = [name for name in kind.architectures if name in PUBLISHED]
        done = [name.rpartition("-")[2] for name in full if name.rpartition("-")[0] in kind.architectures]
        lists = [", ".join(each) or "no" for each in (proved, kind.precisions, checked, done)]
        rows.append([kind.title, "native" if kind.native else "by blending", *lists, "no"])
    return page.table([*heads, "on a GPU"], rows)


def details(cases: Cases) -> str:
    """A line for each kind of model and task."""
    rows = []
    for kind in KINDS:
        for task in TASKS:
            proved = sorted({s for m, t, s in cases if m in kind.models and t == task})
            rows.append([kind.title, task.replace("_", "-"), len(kind.samplers), ", ".join(proved) or "-"])
    return page.table(["model", "task", "samplers offered", "of them held against diffusers' pipeline, in fp32"], rows)


def pages(cases: Cases) -> dict[Path, str]:
    """The two pages with their tables made anew."""
    made = {PAGE: [overview(cases), details(cases)], README: [overview(cases)]}
    return {path: page.replaced(path.read_text(encoding="utf-8"), MARK, *tables) for path, tables in made.items()}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="RESULTS")
    what.add_argument("--check", type=Path, metavar="RESULTS")
    options = parser.parse_args(arguments)
    results = options.write or options.check
    cases = {tuple(case) for case in json.loads(results.read_text())}
    if options.write:
        PARITY.write_text(results.read_text())
        for path, text in pages(cases).items():
            path.write_text(text, encoding="utf-8")
        return 0
    if json.loads(PARITY.read_text()) != json.loads(results.read_text()):
        print(f"{PARITY.name} is not what the tests have just shown: make models", file=sys.stderr)
        return 1
    for path, text in pages(cases).items():
        if path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is not up to date: make models", file=sys.stderr)
            return 1
    return 0


def _full_size() -> list[str]:
    return sorted(json.loads(FULL_SIZE.read_text())) if FULL_SIZE.exists() else []
