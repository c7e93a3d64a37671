"""Alternating runs: both sides of a comparison in every round, so that a machine that slows down slows both.

What counts is the ratio of the two in the same round. Standard library only, for the sides of comparisons.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def alternate(sides: Mapping[str, Callable[[int], T]], rounds: int) -> Iterator[dict[str, T]]:
    """Yield what each side returns, round by round; which of them is first changes from round to round.

    A side is called with the round's number. The first round, 0, warms the sides up: leave its times out.
    """
    for number in range(rounds):
        order = list(sides)[:: 1 if number % 2 else -1]
        found = {name: sides[name](number) for name in order}
        yield {name: found[name] for name in sides}


def faster(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast we are: the median of the rounds' ratios, from the seconds of both in the same order."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def timed(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that it took."""
    started = clock()
    action()
    return clock() - started
