"""The tables of docs/models.md and README.md: which model does what, and what each claim rests on.

    python benchmarks/models.py --write RESULTS     new results of the parity tests (GESSO_PARITY=RESULTS pytest ...)
    python benchmarks/models.py --check RESULTS     fail if they, or the pages, are not those in the repository

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

from gesso_export.bundle.parameters import FLOW_SAMPLERS, SAMPLERS
from gesso_export.precision import PRECISIONS
from gesso_export.published.models import MODELS as PUBLISHED

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "models.md", ROOT / "README.md"
PARITY = ROOT / "benchmarks" / "results" / "parity.json"
FULL_SIZE = ROOT / "benchmarks" / "results" / "full-size.json"
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
        ("sd-inpaint", "sd-inpaint-v"),
        ("sd15-inpaint", "sd2-inpaint"),
        True,
        precisions=ALL,
    ),
    Kind("Stable Diffusion 1.x, 2.x", ("sd-plain", "sd-plain-v"), ("sd15", "sd21"), False, precisions=ALL),
    Kind("SDXL inpainting", ("sdxl-inpaint",), ("sdxl-inpaint",), True),
    Kind("SDXL", ("sdxl",), ("sdxl",), False),
    Kind("SDXL-Turbo", ("turbo",), ("sdxl-turbo",), False),
    Kind("FLUX.1 Fill", ("flux-fill",), ("flux-fill",), True, FLOW_SAMPLERS),
    Kind("FLUX.1 dev", ("flux-dev",), ("flux-dev",), False, FLOW_SAMPLERS),
    Kind("FLUX.1 schnell", ("flux-schnell",), ("flux-schnell",), False, FLOW_SAMPLERS),
)


def overview(cases: Cases) -> str:
    """A line for each kind of model."""
    lines = [
        "| model | inpainting | equals diffusers | exports in | architecture checked | at full size | on a GPU |",
        "|---|---|---|---|---|---|---|",
    ]
    full = _full_size()
    for kind in KINDS:
        proved = [task.replace("_", "-") for task in TASKS if any(m in kind.models and t == task for m, t, _ in cases)]
        checked = [name for name in kind.architectures if name in PUBLISHED]
        done = [name.rpartition("-")[2] for name in full if name.rpartition("-")[0] in kind.architectures]
        lines.append(
            f"| {kind.title} | {'native' if kind.native else 'by blending'} | {', '.join(proved) or 'no'} | "
            f"{', '.join(kind.precisions)} | {', '.join(checked) or 'no'} | {', '.join(done) or 'no'} | no |"
        )
    return "\n".join(lines)


def details(cases: Cases) -> str:
    """A line for each kind of model and task."""
    lines = [
        "| model | task | samplers offered | of them held against diffusers' pipeline, in fp32 |",
        "|---|---|---|---|",
    ]
    for kind in KINDS:
        for task in TASKS:
            proved = sorted({s for m, t, s in cases if m in kind.models and t == task})
            lines.append(
                f"| {kind.title} | {task.replace('_', '-')} | {len(kind.samplers)} | {', '.join(proved) or '-'} |"
            )
    return "\n".join(lines)


def pages(cases: Cases) -> dict[Path, str]:
    """The two pages with their tables made anew."""
    made = {PAGE: [overview(cases), details(cases)], README: [overview(cases)]}
    texts = {}
    for path, tables in made.items():
        parts = path.read_text(encoding="utf-8").split(MARK)
        if len(parts) != 2 * len(tables) + 1:
            raise SystemExit(f"{path.name}: expected {2 * len(tables)} lines {MARK}")
        parts[1::2] = [f"\n{table}\n" for table in tables]
        texts[path] = MARK.join(parts)
    return texts


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="RESULTS")
    what.add_argument("--check", type=Path, metavar="RESULTS")
    options = parser.parse_args(argv)
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


if __name__ == "__main__":
    sys.exit(main())
