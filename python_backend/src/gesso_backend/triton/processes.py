"""What Linux says of processes: which one runs a model, since when, and whether somebody has stopped it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
STOPPED = "T"  # by a signal. A debugger's stop is `t`: somebody is looking, and it is left alone
STATE, STARTED = 0, 19  # fields of /proc/PID/stat, counted behind the name


class ModelProcesses:
    """The Python process of each model. Triton 24.10 goes on calling a model ready whose process was killed or
    stopped, and what waits for it waits for ever; so the process itself is looked for, by the model file it was given.
    """

    def __init__(self, repository: Path, models: Iterable[str]) -> None:
        self._scripts = {model: str(repository / model / "1" / "model.py").encode() for model in models}
        self._known: dict[str, int] = {}  # where each model was last seen

    def missing(self) -> list[str]:
        """Models that have no process."""
        return [model for model in self._scripts if self._pid(model) is None]

    def stopped(self) -> list[str]:
        """Models whose process is stopped by a signal."""
        pids = {model: self._pid(model) for model in self._scripts}
        return [model for model, pid in pids.items() if pid is not None and is_stopped(pid)]

    def _pid(self, model: str) -> int | None:
        known, script = self._known.get(model), self._scripts[model]
        if known is not None and _has_argument(known, script):
            return known
        found = next((pid for pid in pids() if _has_argument(pid, script)), None)
        if found is not None:
            self._known[model] = found
        return found


def pids() -> list[int]:
    return [int(folder.name) for folder in PROC.glob("[0-9]*")]


def is_stopped(pid: int) -> bool:
    return _stat(pid, STATE) == STOPPED


def started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; with its pid, no other process. Empty: gone."""
    return _stat(pid, STARTED)


def started_at(pid: int) -> float:
    """When a process started, as `time.time`; it may be off by what the clock was set. Now if it is gone."""
    ticks = started(pid)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK") if ticks else 0.0
    return time.time() - age


def maps(pid: int, library: str) -> bool:
    """Whether a process that may be looked at has a library of this name loaded."""
    with contextlib.suppress(OSError):
        return library in (PROC / str(pid) / "maps").read_text(errors="replace")
    return False


def stat(pid: int, field: int) -> str:
    """STATE or STARTED of a process. Raises OSError where it is gone, or hidden from us."""
    return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[field]


def _stat(pid: int, field: int) -> str:
    with contextlib.suppress(OSError):  # processes come and go
        return stat(pid, field)
    return ""


def _has_argument(pid: int, argument: bytes) -> bool:
    """Whether this is a living process that was given `argument`; one that has ended has no command line."""
    with contextlib.suppress(OSError):
        return argument in (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    return False
