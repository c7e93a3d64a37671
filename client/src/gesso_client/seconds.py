"""Lengths of time, as callers give them."""

from __future__ import annotations

import math
import numbers
from typing import Any

from gesso_client.errors import InvalidRequest, shortened

FOREVER = 1e9  # 31 years. Clocks, sockets and the wire each have a limit somewhere above


def deadline(value: object) -> float | None:
    """Seconds, None: none. Raises InvalidRequest for what is no number above 0, and for infinity."""
    if value is None:
        return None
    number = _number(value)
    if number is not None and 0 < number < math.inf:
        return None if number > FOREVER else float(number)
    raise InvalidRequest(f"{shortened(value)} is not a number of seconds above 0", "deadline")


def waiting(value: object) -> float | None:
    """Seconds to wait at most, None: for ever. Raises InvalidRequest for what is no number."""
    number = None if value is None else _number(value)
    if value is not None and number is None:
        raise InvalidRequest(f"{shortened(value)} is not a number of seconds", "timeout")
    return None if number is None else float(min(max(number, 0), FOREVER))


def _number(value: Any) -> Any:
    """The number that it is; None: none."""
    return None if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value else value
