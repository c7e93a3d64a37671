"""What a person sees while a bundle is made: one line per stage, with its seconds, on stderr."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from typing import TextIO


class Stage:
    """The stage that is running; a note is printed when it ends."""

    def __init__(self) -> None:
        self.text = ""

    def note(self, text: str) -> None:
        self.text = text


class Progress:
    """Prints to `stream`, or nowhere when it is None."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    @contextlib.contextmanager
    def stage(self, what: str, doing: str) -> Iterator[Stage]:
        """Announce a stage, and print how long it took when it ends well."""
        stage, start = Stage(), time.monotonic()
        self._write(f"{what:13} {doing:8}")
        try:
            yield stage
        except BaseException:
            self._write("\n")
            raise
        self._write(f" {time.monotonic() - start:7.1f} s  {stage.text}".rstrip() + "\n")

    def note(self, text: str) -> None:
        """A line between stages."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        if self.stream is not None:
            self.stream.write(text)
            self.stream.flush()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and the model libraries remark on their own insides; errors still arrive as exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
