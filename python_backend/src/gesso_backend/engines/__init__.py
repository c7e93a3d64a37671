"""The one contract between the loop and whatever computes: arrays in, arrays out.

Implementations are files beside this one, none imported until it is asked for.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """One network. Inputs and outputs are named as in the bundle; the first axis of each is the row.

    A row's outputs must not depend on the other rows of its batch, to the last bit.
    """

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]: ...
