"""A request that runs in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from gesso_client.events import Event, Progress
from gesso_client.process import Process
from gesso_client.result import Result
from gesso_client.seconds import waiting
from gesso_client.stream import EventStream


class Job:
    """What `Client.submit` returns. Safe to use from several threads."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._process = Process()  # its thread is there, and only there
        self._changed = threading.Condition()
        # Guarded by _changed; only the job's own thread writes them.
        self._events: list[Event] = []
        self._error: BaseException | None = None
        self._done = False
        threading.Thread(target=self._follow, name="gesso-job", daemon=True).start()

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the pictures.

        timeout: seconds; TimeoutError when it passes, and the job runs on. Raises the GessoError the job ended in.
        """
        self._process.check()
        with self._changed:
            if not self._changed.wait_for(lambda: self._done, waiting(timeout)):
                raise TimeoutError(f"the job is still running after {timeout} s")
            if self._error is not None:
                raise self._error
            return Result.of(self._events)

    def events(self) -> Iterator[Event]:
        """Every event from the first on, each as it comes. Raises the GessoError the job ended in."""
        position = 0
        while True:
            self._process.check()
            with self._changed:
                self._changed.wait_for(lambda: self._done or len(self._events) > position)  # noqa: B023
                fresh, done, error = self._events[position:], self._done, self._error
            yield from fresh
            position += len(fresh)
            if done:
                if error is not None:
                    raise error
                return

    @property
    def progress(self) -> Progress | None:
        """The latest Progress, or None before the first."""
        self._process.check()
        with self._changed:
            return next((event for event in reversed(self._events) if isinstance(event, Progress)), None)

    def done(self) -> bool:
        """True when it has ended, in whichever way."""
        self._process.check()
        with self._changed:
            return self._done

    def cancel(self) -> None:
        """Ask the server to stop. Returns at once; `result` raises Cancelled, unless the picture was there first."""
        self._stream.cancel()

    def _follow(self) -> None:
        error: BaseException | None = None
        try:
            for event in self._stream.events():
                with self._changed:
                    self._events.append(event)
                    self._changed.notify_all()
        except BaseException as caught:  # whatever it is, it belongs to whoever asks for the result
            error = caught
        with self._changed:
            self._error, self._done = error, True
            self._changed.notify_all()
