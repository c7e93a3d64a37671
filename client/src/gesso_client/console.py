"""What a command says. Nobody who stopped reading stops the work."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from gesso_client.errors import one_line
from gesso_client.save import Saved


def say(text: str) -> bool:
    """On stdout; whether it could be written, or nobody wanted it."""
    written = _print(text, sys.stdout)
    if not written:
        complain("stdout cannot be written")
    return written


def complain(what: object) -> None:
    """One line on stderr."""
    _print(f"gesso: {one_line(what)}", sys.stderr)


def tell(saved: Saved, told: set[str], photo: str = "") -> bool:
    """Of a finished picture: its file and seed, and what the server warned of, where that was not told before.

    Whether it is where it should be, and that could be said.
    """
    said = saved.path is None or say(f"{saved.path}  seed {saved.picture.seed}")
    if saved.trouble:
        complain(saved.trouble)
    for warning in saved.picture.report.get("warnings", ()):
        if warning not in told:
            told.add(warning)
            complain(f"{photo}warning: {warning}")
    return said and not saved.trouble


def _print(text: str, stream: TextIO | None) -> bool:
    """Characters that the stream has not are written as escapes."""
    if stream is None:  # it was closed when Python started
        return True
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):  # or Python would try again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return isinstance(error, BrokenPipeError)
    return True
