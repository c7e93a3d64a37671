"""What the life of a picture asks for: calls of networks, which somebody else runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Call:
    """One network, on some rows (the first axis of every input)."""

    network: str
    inputs: Arrays

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def key(self) -> tuple[object, ...]:
        """Calls with equal keys can run as one batch: same network, same shapes beyond the row axis."""
        return (self.network, *((name, array.shape[1:]) for name, array in sorted(self.inputs.items())))
