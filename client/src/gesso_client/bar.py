"""A progress bar of one line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TextIO

from gesso_client.events import Progress

WIDTH = 30  # characters
PLAIN_LINES = 10  # at most this many lines where there is no terminal to redraw


class ProgressBar:
    """Redraws itself on a terminal; elsewhere it writes a plain line now and then. It stops nothing where it cannot.

    out: None where it was closed.
    """

    def __init__(self, out: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._started = clock()
        self._terminal = out is not None and out.isatty()
        self._drawn = False

    def show(self, progress: Progress) -> None:
        """Pictures of one request step together, so the first stands for all."""
        if progress.index != 0:
            return
        step, num_steps = progress.step, progress.num_steps
        text = f"{step}/{num_steps}  {self._clock() - self._started:.1f} s"
        if self._terminal:
            filled = WIDTH * step // max(1, num_steps)
            self._write(f"\r[{'#' * filled}{'-' * (WIDTH - filled)}] {text}")
            self._drawn = True
        elif step * PLAIN_LINES // num_steps > (step - 1) * PLAIN_LINES // num_steps:
            self._write(f"step {text}\n")

    def close(self) -> None:
        """Leave the line, so that what follows starts on its own."""
        if self._drawn:
            self._write("\n")
            self._drawn = False

    def _write(self, text: str) -> None:
        if self._out is not None:
            with contextlib.suppress(OSError, ValueError):
                self._out.write(text)
                self._out.flush()
