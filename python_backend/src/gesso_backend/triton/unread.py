"""What Triton has in memory of answers that clients have not read. No part of its API tells; its process is looked at.

A stream that nobody reads is kept whole after it has ended, where it counts against no bound of ours any more.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Unread:
    """Bytes that Triton's process has grown by. Not to be asked where networks are loaded into it: they count too."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._status = proc / str(os.getppid()) / "status"
        self._at_first = self._anonymous()

    def __call__(self) -> int:
        return max(0, self._anonymous() - self._at_first)

    def _anonymous(self) -> int:
        with contextlib.suppress(OSError):  # hidden from us: then nothing is bounded by it
            for line in self._status.read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "RssAnon":  # without what it shares with the models' processes
                    return int(value.split()[0]) * 2**10
        return 0
