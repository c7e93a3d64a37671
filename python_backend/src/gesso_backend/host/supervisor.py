"""Keeping one Triton process alive: start, wait until its models are ready, watch, restart with back-off, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from gesso_backend.errors import ServeError
from gesso_backend.host import environments, readers, shared_memory
from gesso_backend.host.lifeline import Lifeline
from gesso_backend.host.listening import Ports, bracketed
from gesso_backend.host.readiness import Readiness
from gesso_backend.host.scratch import Scratch
from gesso_backend.host.triton_log import TritonLog, tell
from gesso_backend.settings import DRAIN, DRAINED
from gesso_backend.triton.processes import ModelProcesses, is_stopped

WATCH_SECONDS = 0.5
UNREADY_ROUNDS = 3  # a model may miss a beat under load; a dead one misses all
STOPPED_ROUNDS = 3  # what was stopped together with us, and continued after us, has these to go on
READY_SECONDS = 1800.0  # a large bundle is hashed and loaded before its model is ready
BACK_OFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
FORGIVEN_SECONDS = 60.0  # after a Triton that lived this long, pauses and tries are counted anew
EXIT_SECONDS = 5  # what Triton gets to unload its models, drained as they are
DRAIN_POLL_SECONDS = 0.05
FLUSH_SECONDS = 0.2  # for the last replies, on their way through Triton to the network
LAST_WORDS_SECONDS = 5.0  # for reading what a dead Triton still had to say


class Supervisor:
    """Runs `command` until `stop`, which may come from a signal handler."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        scratch: Scratch,
        models: Sequence[str],
        ports: Ports,
        drain_seconds: float,
        host: str = "127.0.0.1",
        verbose: bool = False,
    ) -> None:
        """models: those of the repository in `scratch` that have a Python process. Of `command`, Triton's id and its
        prefix of shared memory are those of `scratch`."""
        self._command = command
        self._env = env
        self._scratch = scratch
        self._repository = scratch.models
        self._models = models
        self._ports = ports
        self._drain_seconds = drain_seconds
        self._host = host
        self._verbose = verbose
        self._readiness = Readiness(host, ports.http, scratch.server, models)
        self._stopping = threading.Event()
        self._at_once = False
        self._process: subprocess.Popen[str] | None = None

    def asked(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: stop; at once when Ctrl-C is pressed once more."""
        self.stop(at_once=number == signal.SIGINT and self._stopping.is_set())

    def stop(self, at_once: bool = False) -> None:
        """End `run`, which lets running requests finish but with `at_once`."""
        self._stopping.set()
        if at_once:
            self._at_once = True
            self._kill()

    def run(self) -> int:
        """0: stopped on request. 1: gave up, since start after start never got ready.

        One that got ready is started again for as long as it takes, with growing pauses: whatever ends it may be
        somebody's request, and giving up would let that end the service for everybody. Raises ServeError when the
        first start cannot succeed, with what Triton says of it.
        """
        tries = unready = 0  # restarts in a row, and starts in a row that never got ready
        served = False
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._start()
            why = self._watch(process)
            self._end(process, drain=why is None)
            if why is None:
                break
            served = served or self._got_ready
            why = self._failure or why
            if self._failure and not served:
                raise ServeError(self._failure)
            if time.monotonic() - started > FORGIVEN_SECONDS:
                tries = unready = 0
            unready = 0 if self._got_ready else unready + 1
            if unready > len(BACK_OFF_SECONDS):
                self._say(f"{why}; giving up after {tries} restarts. Triton's last words:")
                for line in self._log.tail:
                    self._say(f"  {line}")
                return 1
            pause = BACK_OFF_SECONDS[min(tries, len(BACK_OFF_SECONDS) - 1)]
            tries += 1
            self._say(f"{why}; starting Triton again in {pause} s (restart {tries})")
            self._stopping.wait(pause)
        self._say("stopped at once; what ran was cut off" if self._at_once else "stopped")
        return 0

    @property
    def _got_ready(self) -> bool:
        """Whether the last start was a good one, if only for a moment in which nobody looked."""
        return self._ready or self._log.opened

    @property
    def _failure(self) -> str | None:
        """Why the last start could not succeed, from Triton itself."""
        return None if self._ready else self._log.failure

    def _start(self) -> subprocess.Popen[str]:
        self._ready = False
        self._lifeline = Lifeline()
        self._before = environments.present()
        process = subprocess.Popen(
            self._command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C here must not reach Triton before it is drained
            pass_fds=(self._lifeline.inherited,),
            preexec_fn=self._lifeline.tie,
        )
        self._process = process
        assert process.stdout is not None
        self._log = TritonLog(process.stdout, self._verbose)
        return process

    def _watch(self, process: subprocess.Popen[str]) -> str | None:
        """None when asked to stop; else why Triton has to be started again.

        Rounds are counted, not seconds: while we are stopped ourselves, or the machine stalls, nobody is found late.
        """
        give_up = time.monotonic() + READY_SECONDS
        processes = ModelProcesses(self._repository, self._models)
        missed = stopped = 0
        while not self._stopping.wait(WATCH_SECONDS):
            if process.poll() is not None:
                return f"Triton ended with status {process.returncode}"
            if not self._ready:
                self._scratch.note(environments.present() - self._before)
            if self._failure:
                return self._failure
            if self._ready and (missing := processes.missing()):
                return f"the process of {missing[0]} is gone"
            still = ["Triton"] if is_stopped(process.pid) else processes.stopped()
            stopped = stopped + 1 if still else 0
            if stopped >= STOPPED_ROUNDS:
                return f"{still[0]} is stopped by a signal"
            if still:
                continue  # it would be asked in vain, and for long
            if self._readiness.ask():
                missed = 0
                if not self._ready:
                    self._ready = True
                    shared_memory.close_to_others(self._scratch.regions)
                    readers.mind(process.pid, self._say)
                    self._announce()
            elif self._ready:
                missed += 1
                if missed >= UNREADY_ROUNDS:
                    return "a model is no longer ready"
            elif time.monotonic() > give_up:
                return f"the models were not ready after {READY_SECONDS:.0f} s"
        return None

    def _announce(self) -> None:
        host, ports = bracketed(self._host), self._ports
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
            if self._ready or self._readiness.ask():
                self._say("stopping; running requests may finish")
                self._drain(process)
            else:
                self._say("stopping before it was ready")
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(EXIT_SECONDS + LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                self._say("Triton did not stop in time; killing it")
        self._kill()
        self._lifeline.cut()
        process.wait()
        self._process = None
        self._log.join(LAST_WORDS_SECONDS)
        self._scratch.clear()

    def _kill(self) -> None:
        """SIGKILL to Triton and its stubs, which outlive a Triton that died."""
        with contextlib.suppress(ProcessLookupError):
            if (process := self._process) is not None:
                os.killpg(process.pid, signal.SIGKILL)

    def _drain(self, process: subprocess.Popen[str]) -> None:
        """Ask every model to take no more and finish what it has; wait until all have, or the time is up."""
        folders = list(self._scratch.control.glob("*"))
        with contextlib.suppress(OSError):  # no room for a file: then Triton's SIGTERM is all they hear
            for folder in folders:
                (folder / DRAIN).touch()
        give_up = time.monotonic() + self._drain_seconds + LAST_WORDS_SECONDS
        while time.monotonic() < give_up and process.poll() is None:
            if all((folder / DRAINED).exists() for folder in folders):
                time.sleep(FLUSH_SECONDS if folders else 0)
                return
            time.sleep(DRAIN_POLL_SECONDS)

    @staticmethod
    def _say(line: str) -> None:
        tell(f"gesso-serve: {line}")
