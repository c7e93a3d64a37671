"""py-spy's samples of a server's process, by thread and by module of gesso."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

RATE = 200  # samples a second
THREAD = re.compile(r'^thread \(\w+\)(?:: "?(?P<name>[^";]+)"?)?$')
FRAME = re.compile(r"gesso_backend/([\w/]+)\.py")
STUB = "Triton's stub"


@dataclass(frozen=True)
class Sampled:
    """samples: (thread, module of the innermost frame that is gesso's) -> samples in which it held Python's lock."""

    samples: Counter[tuple[str, str]]
    seconds: float  # how long was looked

    def share(self, thread: str, module: str) -> float:
        """Of the time."""
        return self.samples[thread, module] / (RATE * self.seconds)

    @property
    def python(self) -> float:
        """The share of the time in which any Python ran."""
        return self.samples.total() / (RATE * self.seconds)


def record(pid: int, seconds: int) -> Sampled:
    """Sample the thread that holds Python's lock, which an engine call gives back while it computes.

    Needs py-spy, and the right to trace the process.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "raw.txt"
        command = [py_spy(), "record", "--pid", str(pid), "--rate", str(RATE), "--duration", str(seconds)]
        subprocess.run(
            [*command, "--gil", "--threads", "--full-filenames", "--format", "raw", "--output", str(out)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return Sampled(parse(out.read_text()), seconds)


def parse(raw: str) -> Counter[tuple[str, str]]:
    """py-spy's raw format: `thread (0x..): "name";outermost;...;innermost count` a line."""
    found: Counter[tuple[str, str]] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        match = THREAD.match(frames[0])
        name = re.sub(r"_\d+$", "", (match and match["name"]) or STUB)
        own = [module[1] for frame in frames[1:] if (module := FRAME.search(frame))]
        found[name, own[-1] if own else "not gesso's"] += int(count)
    return found


def py_spy() -> str:
    """Beside this Python, else on PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise FileNotFoundError("py-spy is not there: pip install -c constraints.txt py-spy")
    return found
