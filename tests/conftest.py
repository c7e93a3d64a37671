"""What every session does, in each of its processes: pytest-xdist runs the tests in several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Before anything imports torch: each process has a core to itself at best, and threads that wait for one only spin.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as our packages set it, whoever imports ONNX Runtime first

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

import bundles
from e2e import proved

pytest_plugins = ["quick"]

# Examples are drawn anew each run, and what fails is tried again until it passes (.hypothesis holds it). No deadline:
# the machine may be busy. `make test-slow` runs the same tests with --hypothesis-profile=many.
settings.register_profile("daily", deadline=None, print_blob=True)
settings.register_profile("many", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile("daily")


@pytest.fixture(scope="session")
def gesso_bundles() -> Path:
    """Where bundles are found, or made for this run and the next ones: for tests that only need one."""
    return bundles.cached()


@pytest.fixture(scope="session")
def fresh_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are made in this run, for all its processes: for tests of the exporter."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"


class Schedule(LoadScopeScheduling):  # type: ignore[misc]
    """What `--dist loadscope` means here: the files with servers or exports of their own first, each on one worker, so
    that these are made once; then the other tests, each wherever there is room.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith(("tests/e2e/", "tests/export/")) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule | None:
    return Schedule(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_sessionstart() -> None:
    if file := os.environ.get("GESSO_PARITY"):
        proved.begin(Path(file))


def pytest_sessionfinish() -> None:
    if file := os.environ.get("GESSO_PARITY"):
        proved.write(Path(file))
