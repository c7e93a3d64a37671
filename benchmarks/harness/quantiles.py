"""Quantiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two values nearest to `share` of the way: 0 is the least, 0.5 the median, 1 the largest."""
    return float(np.quantile(values, share))
