"""Triton's log: what of it is shown, its last words, and what it says of a start that cannot succeed."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections import deque
from typing import IO

# I1121 00:46:04.879820 3613 http_server.cc:4713] "Started HTTPService at 127.0.0.1:18000"
LINE = re.compile(r'^([IWEF])\d{4} [\d:.]+ +\d+ \S+\] *"?(.*?)"?$')
LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}

OPEN = "INFO triton: Started Metrics Service at "  # the last of its services
# The status is Triton's, the rest what the model raised; behind it, with the line ends escaped, a traceback.
NOT_LOADED = re.compile(r"ERROR triton: failed to load '([^']+)' version \d+: [A-Z][\w ]*?: (.*?)(?:\\n.*)?$")
NOT_LISTENING = re.compile(r"ERROR triton: failed to start (\w+) service: .*?(?:Socket '([^']+)' (.*?) ?)?$")
LOST_PROCESS = "Stub process"  # it was killed, or too slow: the next start may go well

# Its start-up tables, its chatter about GPUs that are not there, and what it says again of a failed start.
UNSHOWN = re.compile(
    r"^$|^[+|]|^INFO triton:|NVML|DCGM|Cuda|CUDA|pinned memory"
    r"|^error: creating server|^ERROR triton: ERROR: Failed to create instance|No address added"
)


class TritonLog:
    """One Triton's output, read on a thread of its own to the end."""

    def __init__(self, output: IO[str], verbose: bool) -> None:
        self.tail: deque[str] = deque(maxlen=20)
        self.failure: str | None = None  # why this start cannot succeed, nor the next
        self.opened = False  # it took requests, so its models were loaded
        self._output = output
        self._verbose = verbose
        self._thread = threading.Thread(target=self._forward, name="gesso-log", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _forward(self) -> None:
        with self._output as lines:
            for raw in lines:
                line = raw.rstrip()
                if found := LINE.match(line):
                    line = f"{LEVELS[found[1]]} triton: {found[2]}"
                self.tail.append(line)
                self.opened = self.opened or line.startswith(OPEN)
                failed = None if self.opened else failure(line)
                self.failure = self.failure or failed
                if self._verbose or not (failed or UNSHOWN.search(line)):
                    tell(line)


def failure(line: str) -> str | None:
    """What a line says that ends this start and would end the next."""
    if (found := NOT_LOADED.match(line)) and not found[2].startswith(LOST_PROCESS):
        return f"{found[1]} cannot be loaded: {found[2]}"
    if found := NOT_LISTENING.match(line):
        service = found[1].lower()
        if found[2] is None:
            return f"Triton cannot start its {service} service"
        return f"{found[2]} is {found[3]}; set --{service}-port"
    return None


def tell(line: str) -> None:
    """On stderr, if anybody still reads it: a terminal that hung up must not end the server before its time."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
