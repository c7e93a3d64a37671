"""A network on two engines: the second for the shapes that the first was not built for.

Which of them runs depends on the shape alone, never on the batch, so a request's bytes do not depend on its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from gesso_backend.engines.engine import Engine, NoProfile, Outputs

log = logging.getLogger(__name__)


class FallbackEngine:
    def __init__(self, network: str, first: Engine, load_second: Callable[[str], Engine]) -> None:
        """load_second: makes the second engine of a network, when a shape first needs it."""
        self._network = network
        self._first = first
        self._load_second = load_second
        self._second: Engine | None = None
        self._not_covered: set[tuple[object, ...]] = set()

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> Outputs:
        shape = tuple((name, array.shape[1:]) for name, array in sorted(inputs.items()))
        if shape not in self._not_covered:
            try:
                return self._first(**inputs)
            except NoProfile as error:
                log.warning("%s; ONNX Runtime runs this shape", error.text)
                self._not_covered.add(shape)
        if self._second is None:
            self._second = self._load_second(self._network)
        return self._second(**inputs)
