"""When a request is sent again, and after how long: the protocol, without a transport, a thread or a sleep."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from gesso_client.errors import GessoError
from gesso_client.events import Reading
from gesso_client.request import Request


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


@dataclass(frozen=True)
class Attempt:
    """Send `request`, and give each of its responses to `reading`."""

    request: Request  # its deadline is what is left of the whole
    reading: Reading


@dataclass(frozen=True)
class Pause:
    seconds: float


def attempts(
    request: Request, backoff: Backoff, clock: Callable[[], float] = time.monotonic
) -> Generator[Attempt | Pause, None, None]:
    """What to do for a request, step by step, until it has its pictures.

    The driver resumes it when the step is done, and throws in the GessoError that an attempt ended in. It comes out
    again unless the server was unavailable, nothing was delivered yet and time and retries are left: then a Pause and
    the next Attempt follow.
    """
    started = clock()

    def left() -> float | None:
        """Seconds; attempts and pauses share one deadline."""
        return None if request.deadline is None else request.deadline - (clock() - started)

    deadline = request.deadline
    for attempt in itertools.count():
        reading = Reading(request.count, request.original)
        try:
            yield Attempt(replace(request, deadline=deadline), reading)
            reading.end()
            return
        except GessoError as error:
            delay = None if reading.begun else backoff.delay(error, attempt, left())
            if delay is None:
                error.finished = tuple(reading.finished)
                raise
        yield Pause(delay)
        deadline = left()
