"""A small part of a matrix of cases in which every two values still meet."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, product

Case = tuple[Hashable, ...]
Pair = tuple[tuple[int, Hashable], tuple[int, Hashable]]  # (axis, value) twice


def pairs(case: Case) -> set[Pair]:
    """All that meets in a case."""
    return set(combinations(enumerate(case), 2))


def pairwise(*axes: Sequence[Hashable]) -> list[Case]:
    """Cases with a value of each axis, such that each pair of values of different axes is in at least one.

    Those of the two longest axes meet once each, which no array of cases can do with fewer; the other values are each
    time those that bring most pairs that are still missing, the first of equals. The same axes give the same cases.
    """
    longest = sorted(range(len(axes)), key=lambda axis: -len(axes[axis]))[:2]
    missing = set().union(*(pairs(case) for case in product(*axes)))
    cases: list[Case] = []
    for fixed in product(*(axes[axis] for axis in longest)):
        given = dict(zip(longest, fixed, strict=True))
        cases.append(_best(missing, [[given[axis]] if axis in given else axes[axis] for axis in range(len(axes))]))
        missing -= pairs(cases[-1])
    while missing:
        cases.append(_best(missing, axes))
        missing -= pairs(cases[-1])
    return cases


def _best(missing: set[Pair], axes: Iterable[Iterable[Hashable]]) -> Case:
    return max(product(*axes), key=lambda case: len(missing & pairs(case)))
