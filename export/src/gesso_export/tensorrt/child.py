"""The process that builds, seen from its parent: started, listened to, and ended with it.

TensorRT keeps gigabytes, and an error in it can end the process; neither is to happen to the one that publishes.
Progress comes back as lines of JSON over a pipe; what TensorRT prints goes to a log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gesso_export.errors import BuildError

Event = Mapping[str, Any]
TAIL_LINES = 20


def run(command: Sequence[str], log: Path, on_event: Callable[[Event], None]) -> Event:
    """Run `command` with `--events FD` added; returns its last event, `done`.

    on_event: called with each of the others. Raises BuildError with the child's own words, or, when it was killed or
    ended without a word, with the end of its log. The child is gone when this returns, in whatever way.
    """
    reading, writing = os.pipe()
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--events", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
            )
    finally:
        os.close(writing)
    try:
        done = None
        with open(reading, encoding="utf-8") as lines:
            for line in lines:
                event = _event(line)
                if event.get("event") == "error":
                    raise BuildError(str(event["message"]))
                if event.get("event") == "done":
                    done = event
                else:
                    on_event(event)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status < 0:
        raise BuildError(f"the build was ended by {signal.Signals(-status).name}\n{_tail(log)}".rstrip())
    if status or done is None:
        raise BuildError(f"the build ended with status {status} and without an engine\n{_tail(log)}".rstrip())
    return done


def _event(line: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise BuildError(f"the build said what is no event: {line.strip()[:200]!r}")
    return event


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
