"""The processes of a server, from /proc: the memory they hold, and the processor time of their threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
STUB = "triton_python_backend_stub"  # a model's Python process
TRITON = "tritonserver"  # its own process, which is not Python
STREAMING = "inpaint"  # the model that runs the loop
Cpu = dict[tuple[str, int], float]  # (process, thread) -> seconds on a processor


@dataclass(frozen=True)
class Memory:
    name: str
    resident: float  # MB, pages shared with other processes included in each
    proportional: float  # MB, shared pages divided among those who share them


def memory(pid: int | None = None) -> list[Memory]:
    """Of the processes below this one, or below `pid`: while a server runs, that server's."""
    return [_memory(PROC / str(each)) for each in below(os.getpid() if pid is None else pid)]


def cpu(pid: int) -> Cpu:
    """Of Triton and its models below gesso-serve's `pid`. Threads are told apart in STREAMING's process only; what the
    others spent is under thread 0."""
    found: Cpu = {}
    for name, process in models(pid).items():
        for task in (PROC / str(process) / "task").iterdir():
            thread = int(task.name) if name == STREAMING else 0
            seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            found[name, thread] = found.get((name, thread), 0.0) + seconds
    return found


def models(pid: int) -> dict[str, int]:
    """Model -> the pid of its Python process, and TRITON -> Triton's own, below `pid`."""
    found = {}
    for process in below(pid):
        program, *arguments = _command(process)
        if Path(program).name == STUB:
            found[next(argument for argument in arguments if argument.endswith("/1/model.py")).split("/")[-3]] = process
        elif Path(program).name == TRITON:
            found[TRITON] = process
    return found


def below(pid: int) -> list[int]:
    """The children of a process, and theirs, in order of their pids."""
    parents = {int(stat.parent.name): _parent(stat) for stat in PROC.glob("[0-9]*/stat")}
    found = {pid}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def _parent(stat: Path) -> int:
    try:
        # The second field is a name in brackets that may hold anything; the parent is the second one after it.
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return 0


def _command(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it ended meanwhile
        return [""]


def _memory(folder: Path) -> Memory:
    kilobytes = {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
    }
    name = (folder / "comm").read_text().strip()
    return Memory(name, kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6)
