"""What every session does, in each of its processes: pytest-xdist runs the tests in several."""

from __future__ import annotations

import os
from pathlib import Path

from e2e import proved


def pytest_sessionstart() -> None:
    if file := os.environ.get("GESSO_PARITY"):
        proved.begin(Path(file))


def pytest_sessionfinish() -> None:
    if file := os.environ.get("GESSO_PARITY"):
        proved.write(Path(file))
