"""Variants of the UNet's engine, held against it as it is served, and against themselves in batches."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.variant import VARIANTS
from benchmarks.harness.alternate import alternate, faster
from benchmarks.harness.side import side
from benchmarks.peers.environments import python_of

REPEATS = {32: 9, 64: 3}  # by latent size: 256 and 512 px
Call = Callable[..., dict[str, Any]]  # latent size, rows


def compare(bundle: Path, name: str, sizes: list[int]) -> dict[str, Any]:
    """Seconds per call of both, alternating, and how much faster the variant is, by latent size."""
    found: dict[str, Any] = {"title": VARIANTS[name].title}
    with worker(bundle, "served") as served, worker(bundle, name) as tried:
        for size in sizes:
            sides = {"served": lambda _, size=size: served(size), "variant": lambda _, size=size: tried(size)}
            _, *rounds = alternate(sides, REPEATS[size] + 1)
            seconds = {key: [answers[key]["seconds"] for answers in rounds] for key in sides}
            last = [np.load(answer["answer"]) for answer in rounds[-1].values()]
            found[str(size)] = {
                **{key: statistics.median(values) for key, values in seconds.items()},
                "faster": faster(seconds["variant"], seconds["served"]),
                "calls": len(rounds),
                "difference": float(np.abs(last[0] - last[1]).max()),
            }
    return found


def batch(bundle: Path, name: str) -> dict[str, float]:
    """Largest difference of a row alone from the same row in batches of 2 to 4, at latents of 32."""
    found = {}
    with worker(bundle, name) as call:
        alone = [np.load(call(32, rows=[row])["answer"])[0] for row in range(4)]
        for count in (2, 3, 4):
            together = np.load(call(32, rows=list(range(count)))["answer"])
            found[str(count)] = max(float(np.abs(together[row] - alone[row]).max()) for row in range(count))
    return found


@contextmanager
def worker(bundle: Path, name: str) -> Iterator[Call]:
    """A process with the variant loaded; call it with a latent size and, if not two, the rows."""
    variant = VARIANTS[name]
    python = python_of("openvino" if variant.openvino else "gesso")
    with side("benchmarks.cpu.worker", str(bundle), name, python=python, environment=variant.environment) as process:

        def call(size: int, rows: list[int] | None = None) -> dict[str, Any]:
            answer: dict[str, Any] = process({"size": size, "rows": rows or [0, 1]})
            return answer

        yield call
