"""When a request is sent again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from gesso_client.errors import GessoError


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter, so that clients refused together do not come back together."""

    retries: int = 3  # after the first attempt
    first_s: float = 0.25
    cap_s: float = 4.0
    jitter: Callable[[], float] = random.random  # in [0, 1)

    def delay(self, error: GessoError, attempt: int, remaining_s: float | None) -> float | None:
        """Seconds to wait before attempt `attempt + 1`, or None to give up.

        remaining_s: what is left of the request's deadline, None without one.
        """
        if not error.retryable or attempt >= self.retries:
            return None
        delay = min(self.cap_s, self.first_s * 2**attempt) * (1 + self.jitter()) / 2
        return delay if remaining_s is None or delay < remaining_s else None
