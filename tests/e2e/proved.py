"""What the parity tests of this session have shown: each case that equalled diffusers' pipeline.

With GESSO_PARITY naming a file, they are written there at the end (tests/e2e/conftest.py); benchmarks/models.py makes
the tables of docs/models.md of them.
"""

from __future__ import annotations

import json
from pathlib import Path

_CASES: set[tuple[str, str, str]] = set()


def proved(model: str, task: str, scheduler: str) -> None:
    """Called where a picture was the same."""
    _CASES.add((model, task, scheduler))


def write(path: Path) -> None:
    """All that was proved, as a sorted list of [model, task, scheduler]."""
    path.write_text(json.dumps(sorted(_CASES), indent=0) + "\n")
