"""One thread that finishes pictures and talks to clients, so that the loop never waits for either.

Everything posted runs in the order it was posted, which is what keeps a request's events in order.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Outbox:
    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gesso-outbox", daemon=True)
        self._thread.start()

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` after all that was posted before. An action handles its own errors; a slip is logged."""
        self._posted.put(action)

    def close(self) -> None:
        """Finish what was posted, and what that posts in turn, and stop."""
        self._posted.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            action = self._posted.get()
            if action is None:
                if self._posted.empty():
                    return
                self._posted.put(None)  # posted meanwhile by an action: a job's end posts its reply
                continue
            try:
                action()
            except Exception:
                log.exception("an outbox action failed")
