"""What the parity tests of this session have shown: each case that equalled diffusers' pipeline.

With GESSO_PARITY naming a file, they are written there at the end (tests/e2e/conftest.py); benchmarks/models.py makes
the tables of docs/models.md of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_CASES: set[tuple[str, str, str]] = set()


def proved(model: str, task: str, scheduler: str) -> None:
    """Called where a picture was the same."""
    _CASES.add((model, task, scheduler))


def begin(path: Path) -> None:
    """Forget what an earlier session that was cut short has left."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for part in _parts(path):
            part.unlink()


def write(path: Path) -> None:
    """All that was proved, as a sorted list of [model, task, scheduler]: what this process saw and, in the process that
    gave the tests out to others (pytest-xdist), what those saw, each in a file of its own beside `path`.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    cases = {*_CASES}
    if worker is None:
        for part in _parts(path):
            cases |= {tuple(case) for case in json.loads(part.read_text())}
            part.unlink()
    else:
        path = path.with_name(f"{path.stem}-{worker}.json")
    path.write_text(json.dumps(sorted(cases), indent=0) + "\n")


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}-gw*.json"))
