"""The part of the parity tests' matrix that runs every day."""

from __future__ import annotations

from itertools import product

import pytest

from e2e.pairwise import pairs, pairwise
from e2e.test_parity import AXES, DAILY


@pytest.mark.parametrize("lengths", [(1, 1), (3, 2), (2, 3, 4), (2, 2, 2, 2, 2, 2), (5, 1, 5, 3), (13, 6, 2, 2)])
def test_every_two_values_meet(lengths: tuple[int, ...]) -> None:
    """Guards against a fault of two options together that no case of the part would show."""
    axes = [range(length) for length in lengths]
    cases = pairwise(*axes)
    assert set().union(*map(pairs, cases)) == set().union(*map(pairs, product(*axes)))
    assert len(cases) == len(set(cases))
    assert cases == pairwise(*axes)


def test_of_312_cases_78_run_every_day_and_every_two_values_meet_in_them() -> None:
    """Guards the axes that the tests really have."""
    whole = list(product(*AXES))
    assert (len(DAILY), len(whole)) == (78, 312)
    assert set(DAILY) <= set(whole)
    assert set().union(*map(pairs, DAILY)) == set().union(*map(pairs, whole))


def test_every_sampler_meets_every_task_every_day() -> None:
    """Guards the claims of docs/models.md, which `make test` holds against what it has seen."""
    assert {(task, scheduler) for task, _, scheduler, _ in DAILY} == set(product(AXES[0], AXES[2]))
