"""The served side: questions through the SDK, how long one takes, and how much memory the server holds."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gesso_client import Client
from training.evaluation.tasks import Question
from training.scenes.scene import Pixels

STEPS = 20
IN_FLIGHT = 4  # requests at once; what a request returns does not depend on its neighbours
TIMED = 7


def answer(client: Client, question: Question) -> Pixels:
    """The picture that comes back, as large as the question's. The bundle's own sampler."""
    result = client.inpaint(
        question.image,
        question.mask,
        question.prompt,
        seed=question.seed,
        num_inference_steps=STEPS,
        guidance_scale=question.guidance_scale,
    )
    return np.asarray(result.image)


def answers(client: Client, questions: Sequence[Question]) -> list[Pixels]:
    """In the questions' order."""
    pictures = []
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        for picture in pool.map(lambda question: answer(client, question), questions):
            pictures.append(picture)
            if len(pictures) % 50 == 0:
                print(f"  {len(pictures)} of {len(questions)}", flush=True)
    return pictures


def seconds_per_picture(client: Client, question: Question) -> float:
    """End to end, one request at a time: the median of TIMED after a first that is not counted."""
    times = []
    for _ in range(TIMED + 1):
        started = time.perf_counter()
        answer(client, question)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


@dataclass(frozen=True)
class Process:
    name: str
    resident: float  # MB, pages shared with other processes included in each
    proportional: float  # MB, shared pages divided among those who share them


def child_processes() -> list[Process]:
    """The processes below this one, from /proc: while a server runs, that server's."""
    parents = {int(stat.parent.name): _parent(stat) for stat in Path("/proc").glob("[0-9]*/stat")}
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [_process(Path("/proc") / str(pid)) for pid in sorted(below - {os.getpid()})]


def _parent(stat: Path) -> int:
    try:
        # The second field is a name in brackets that may hold anything; the parent is the second one after it.
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return 0


def _process(folder: Path) -> Process:
    kilobytes = {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
    }
    name = (folder / "comm").read_text().strip()
    return Process(name, kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6)
