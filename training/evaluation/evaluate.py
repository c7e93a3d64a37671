"""Measures the demo model through a real server, on scenes it was never trained on (`make eval-demo-model`).

    python -m training.evaluation.evaluate                everything (half an hour or less on two cores)
    python -m training.evaluation.evaluate --limit 4      the first questions of each task, to see that it runs

What is measured goes to the work folder, or with --write into the repository: docs/demo-model.md, its picture, and
benchmarks/results/demo-model.json. Exit status 1 when a target is not met.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import processes
from benchmarks.harness.artefacts import LITTLE_WORLD, exported
from benchmarks.harness.machine import machine
from benchmarks.harness.paths import CHECKPOINTS, ROOT
from benchmarks.harness.server import serve
from gesso_client import Client
from training.evaluation import report, serving, tasks, verdicts
from training.evaluation.classifier import train_classifier
from training.evaluation.report import Row
from training.evaluation.sheet import COLUMNS, Band, outlined, sheet
from training.evaluation.tasks import Question
from training.scenes.scene import Pixels

PAGE = ROOT / "docs" / "demo-model.md"
COUNTS = {"ceiling": 500, "vae": 200, "add": 200, "replace": 200, "remove": 150, "swap": 60}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=LITTLE_WORLD)
    parser.add_argument(
        "--work", type=Path, default=CHECKPOINTS / "little-world-training", help="used again by the next run"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="N questions of each task")
    parser.add_argument("--write", action="store_true", help="put table, picture and JSON into the repository")
    options = parser.parse_args()
    if options.write and options.limit:
        parser.error("what --limit measures is not to be published")
    counts = {name: min(options.limit or number, number) for name, number in COUNTS.items()}

    classifier = train_classifier(options.work, torch.device("cpu"))
    rows = verdicts.judges(classifier, counts["ceiling"])
    rows += verdicts.reconstruction(options.checkpoint, counts["vae"])
    bundle = exported(options.checkpoint, options.work / "evaluated-bundle")
    with serve(bundle) as server, Client(server.grpc) as client:
        served, details, bands = evaluate(client, classifier, counts)
    rows += served

    about = {**machine(), "opencv": version("opencv-python-headless")}
    table = report.markdown(rows, about)
    print(table)
    out = ROOT if options.write else options.work / "evaluation"
    report.write_results(out / "benchmarks" / "results" / "demo-model.json", rows, about, details)
    (out / "docs").mkdir(parents=True, exist_ok=True)
    sheet(bands).save(out / "docs" / "demo-model.png", optimize=True)
    if options.write:
        report.write_page(PAGE, table)
    return 1 if any(row.met is False for row in rows) else 0


def evaluate(
    client: Client, classifier: nn.Module, counts: Mapping[str, int]
) -> tuple[list[Row], dict[str, Any], list[Band]]:
    """Everything that takes the server: the rows, what each picture gave, and the pictures to show."""

    def answers(name: str, questions: Sequence[Question]) -> list[Pixels]:
        print(f"{name}: {len(questions)} questions", flush=True)
        return serving.answers(client, questions)

    add, replace, remove = tasks.add(counts["add"]), tasks.replace(counts["replace"]), tasks.remove(counts["remove"])
    pairs = tasks.swap(counts["swap"])
    added, replaced, removed = answers("add", add), answers("replace", replace), answers("remove", remove)
    swapped = answers("swap", [question for pair in pairs for question in pair])
    verdict = {
        "add": verdicts.painted("add", classifier, add, added),
        "replace": verdicts.painted("replace", classifier, replace, replaced),
        "remove": verdicts.removed(remove, removed),
        "swap": verdicts.swapped(pairs, swapped),
    }
    seconds = serving.seconds_per_picture(client, add[0])
    memory = processes.memory()
    rows = [row for found, _ in verdict.values() for row in found]
    rows += verdicts.speed(seconds) + verdicts.memory(memory)
    details: dict[str, Any] = {name: samples for name, (_, samples) in verdict.items()}
    details["processes"] = [asdict(process) for process in memory]
    bands = [
        Band("add", add, (("asked", shown(add)), ("answered", added))),
        Band("replace", replace, (("asked", shown(replace)), ("answered", replaced))),
        Band("remove", remove, (("asked", shown(remove)), ("answered", removed), ("truth", [q.empty for q in remove]))),
    ]
    return rows, details, bands


def shown(questions: Sequence[Question]) -> list[Pixels]:
    return [outlined(question) for question in questions[:COLUMNS]]


if __name__ == "__main__":
    sys.exit(main())
