"""Keeping one Triton process alive: start, wait until its models are ready, watch, restart with back-off, stop."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gesso_backend.host.scratch import remove_shared_memory
from gesso_backend.settings import DRAIN, DRAINED

WATCH_SECONDS = 0.5
UNREADY_ROUNDS = 3  # a model may miss a beat under load; a dead one misses all
READY_SECONDS = 1800.0  # a large bundle is hashed and loaded before its model is ready
BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
FORGIVEN_SECONDS = 60.0  # after a Triton that lived this long, pauses and tries are counted anew
EXIT_SECONDS = 5  # what Triton gets to unload its models, drained as they are
DRAIN_POLL_SECONDS = 0.05
FLUSH_SECONDS = 0.2  # for the last replies, on their way through Triton to the network
LAST_WORDS_SECONDS = 5.0  # for reading what a dead Triton still had to say

# I1121 00:46:04.879820 3613 http_server.cc:4713] "Started HTTPService at 127.0.0.1:18000"
TRITON_LINE = re.compile(r'^([IWEF])\d{4} [\d:.]+ \d+ \S+\] ?"?(.*?)"?$')
LEVELS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Ports:
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


class Supervisor:
    """Runs `command` until `stop`, which may come from a signal handler."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        repository: Path,
        control: Path,
        models: Sequence[str],
        ports: Ports,
        drain_seconds: float,
        host: str = "127.0.0.1",
        verbose: bool = False,
    ) -> None:
        self._command = command
        self._env = env
        self._repository = repository
        self._control = control
        self._models = models
        self._ports = ports
        self._drain_seconds = drain_seconds
        self._host = host
        self._verbose = verbose
        self._stopping = threading.Event()
        self._processes: dict[str, Path | None] = {}  # the /proc/PID/cmdline that each model was last seen at
        self._log_tail: deque[str] = deque(maxlen=20)

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> int:
        """0: stopped on request. 1: gave up, since start after start never got ready.

        One that got ready is started again for as long as it takes, with growing pauses: whatever ends it may be
        somebody's request, and giving up would let that end the service for everybody.
        """
        tries = unready = 0  # restarts in a row, and starts in a row that never got ready
        while True:
            started = time.monotonic()
            process = self._start()
            why = self._watch(process)
            self._end(process, drain=why is None)
            if why is None:
                self._say("stopped")
                return 0
            if time.monotonic() - started > FORGIVEN_SECONDS:
                tries = unready = 0
            unready = 0 if self._ready else unready + 1
            if unready > len(BACK_OFF_SECONDS):
                self._say(f"{why}; giving up after {tries} restarts. Triton's last words:")
                for line in self._log_tail:
                    self._say(f"  {line}")
                return 1
            pause = BACK_OFF_SECONDS[min(tries, len(BACK_OFF_SECONDS) - 1)]
            tries += 1
            self._say(f"{why}; starting Triton again in {pause} s (restart {tries})")
            if self._stopping.wait(pause):
                return 0

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C here must not reach Triton before it is drained
            preexec_fn=_end_with_parent,
        )
        self._log_thread = threading.Thread(target=self._forward_log, args=(process,), daemon=True)
        self._log_thread.start()
        return process

    def _watch(self, process: subprocess.Popen[str]) -> str | None:
        """None when asked to stop; else why Triton has to be started again."""
        give_up = time.monotonic() + READY_SECONDS
        self._ready, missed = False, 0
        while not self._stopping.wait(WATCH_SECONDS):
            if process.poll() is not None:
                return f"Triton ended with status {process.returncode}"
            if self._ready and (dead := [model for model in self._models if not self._has_process(model)]):
                return f"the process of {dead[0]} is gone"
            if all(self._is_ready(model) for model in self._models):
                missed = 0
                if not self._ready:
                    self._ready = True
                    self._announce()
            elif self._ready:
                missed += 1
                if missed >= UNREADY_ROUNDS:
                    return "a model is no longer ready"
            elif time.monotonic() > give_up:
                return f"the models were not ready after {READY_SECONDS:.0f} s"
        return None

    def _is_ready(self, model: str) -> bool:
        connection = http.client.HTTPConnection(_reachable(self._host), self._ports.http, timeout=5)
        try:
            connection.request("GET", f"/v2/models/{model}/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _has_process(self, model: str) -> bool:
        """Whether a model's Python process lives. Triton 24.10 goes on calling a model ready whose process was killed,
        and what waited for it waits for ever; so the process itself is looked for, by the model file it was given.
        """
        script = str(self._repository / model / "1" / "model.py").encode()
        known = self._processes.get(model)
        if known is None or not _runs(known, script):
            known = next((each for each in Path("/proc").glob("[0-9]*/cmdline") if _runs(each, script)), None)
            self._processes[model] = known
        return known is not None

    def _announce(self) -> None:
        host, ports = self._host, self._ports
        self._say(f"ready: {', '.join(self._models)}")
        self._say(f"  gRPC     {host}:{ports.grpc}")
        self._say(f"  HTTP     http://{host}:{ports.http}/v2/models/{self._models[0]}")
        self._say(f"  metrics  http://{host}:{ports.metrics}/metrics")

    def _end(self, process: subprocess.Popen[str], drain: bool) -> None:
        """With `drain` the models are asked to finish what runs, and Triton gets a SIGTERM; then, and else, SIGKILL to
        all of its processes.

        A Triton that lost a model is not drained: it would wait for requests that nobody will answer.
        """
        if drain and process.poll() is None:
            self._say("stopping; running requests may finish")
            self._drain(process)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(EXIT_SECONDS + LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                self._say("Triton did not stop in time; killing it")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # stubs outlive a Triton that died
        process.wait()
        self._log_thread.join(LAST_WORDS_SECONDS)
        remove_shared_memory(os.getpid())

    def _drain(self, process: subprocess.Popen[str]) -> None:
        """Ask every model to take no more and finish what it has; wait until all have, or the time is up."""
        folders = [folder for folder in self._control.glob("*") if self._ready]
        for folder in folders:
            (folder / DRAIN).touch()
        give_up = time.monotonic() + self._drain_seconds + LAST_WORDS_SECONDS
        while time.monotonic() < give_up and process.poll() is None:
            if all((folder / DRAINED).exists() for folder in folders):
                time.sleep(FLUSH_SECONDS if folders else 0)
                return
            time.sleep(DRAIN_POLL_SECONDS)

    def _forward_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for raw in lines:
                line = raw.rstrip()
                if found := TRITON_LINE.match(line):
                    line = f"{LEVELS[found[1]]} triton: {found[2]}"
                self._log_tail.append(line)
                if self._verbose or _worth_showing(line):
                    print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _say(line: str) -> None:
        print(f"gesso-serve: {line}", file=sys.stderr, flush=True)


def _runs(cmdline: Path, argument: bytes) -> bool:
    """Whether this /proc/PID/cmdline is of a living process that was given `argument`."""
    with contextlib.suppress(OSError):  # processes come and go
        return argument in cmdline.read_bytes().split(b"\0")
    return False


def _end_with_parent() -> None:
    """In the new process: have the kernel stop it when this one is killed, or it would keep the ports."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _worth_showing(line: str) -> bool:
    """Drop Triton's start-up tables and its chatter about GPUs that are not there."""
    if not line or line[0] in "+|":
        return False
    return not line.startswith("INFO triton:") and not re.search(r"NVML|DCGM|Cuda|CUDA|pinned memory", line)


def _reachable(host: str) -> str:
    """Where to ask a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
