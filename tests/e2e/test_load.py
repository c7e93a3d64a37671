"""The scheduler and its simulator beside each other, on the shipped model and a real Triton (minutes; see
benchmarks/load)."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.load.measure import measure
from benchmarks.load.servers import DEFAULT, FIFO

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return measure(requests=80, seed=0)


def test_no_picture_depends_on_the_load(record: dict[str, Any]) -> None:
    """Guards the promise of equal bytes under every policy and in batches of strangers."""
    assert record["different_bytes"] == 0


def test_batching_costs_no_throughput(record: dict[str, Any]) -> None:
    """Guards against a scheduler that is slower than no scheduler."""
    assert record["saturated_per_second"] >= 0.98 * record["serial_per_second"]


@pytest.mark.parametrize("name", [FIFO, DEFAULT])
def test_the_simulator_says_what_the_server_does(record: dict[str, Any], name: str) -> None:
    """Guards decisions that rest on the simulator: without and with batches, its mean is near the real one."""
    assert record["simulated"][name]["mean"] == pytest.approx(record["runs"][name]["mean"], rel=0.33)
