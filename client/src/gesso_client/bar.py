"""A progress bar of one line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from gesso_client.events import Progress

WIDTH = 30  # characters
PLAIN_LINES = 10  # at most this many lines where there is no terminal to redraw


class ProgressBar:
    """Redraws itself on a terminal; elsewhere it writes a plain line now and then."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._started = clock()
        self._terminal = out.isatty()
        self._drawn = False

    def show(self, progress: Progress) -> None:
        """Pictures of one request step together, so the first stands for all."""
        if progress.index != 0:
            return
        step, num_steps = progress.step, progress.num_steps
        text = f"{step}/{num_steps}  {self._clock() - self._started:.1f} s"
        if self._terminal:
            filled = WIDTH * step // max(1, num_steps)
            self._out.write(f"\r[{'#' * filled}{'-' * (WIDTH - filled)}] {text}")
            self._out.flush()
            self._drawn = True
        elif step * PLAIN_LINES // num_steps > (step - 1) * PLAIN_LINES // num_steps:
            print(f"step {text}", file=self._out, flush=True)

    def close(self) -> None:
        """Leave the line, so that what follows starts on its own."""
        if self._drawn:
            print(file=self._out, flush=True)
            self._drawn = False
