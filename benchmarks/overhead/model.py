"""gesso's streaming model with a stopwatch: server.py, beside this, puts it in the place of the served model.py.

Nothing is added to the package: an engine call, the loop's account of it and a channel's `send` are wrapped here, and
what was seen is written when the server stops. Moments are CLOCK_MONOTONIC's, in ns; clients on this machine share it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from gesso_backend.engines import engine as engines_
from gesso_backend.engines.engine import EngineSet
from gesso_backend.serving.batch import Batch
from gesso_backend.serving.loop import Loop
from gesso_backend.triton.channel import TritonChannel
from gesso_backend.triton.inpaint import InpaintModel

LOG = "GESSO_BENCH_LOG"  # where to write
TASKS = Path("/proc/self/task")


class Stopwatch:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []  # of engines
        self.sends: list[tuple[int, int, int, int]] = []  # seed, step, from, until
        self.engine_threads: list[int] = []  # ids of the threads that came with the engines
        self._last: dict[str, Any] = {}
        self._steps: Counter[int] = Counter()

    def install(self) -> None:
        load, call, send = engines_.load, Loop._call, TritonChannel.send

        def load_engines(*arguments: Any) -> EngineSet:
            before = set(TASKS.iterdir())
            engines = load(*arguments)
            self.engine_threads = sorted(int(task.name) for task in set(TASKS.iterdir()) - before)
            timed = {name: self._timed(name, engine) for name, engine in engines.engines.items()}
            return dataclasses.replace(engines, engines=timed)

        def timed_call(loop: Loop, batch: Batch) -> Any:
            outputs = call(loop, batch)
            if batch.step:
                seeds = [branch.run.prepared.seed_of(branch.index) for branch in batch.branches]
                self._steps.update(seeds)
                self._last["steps"] = [(seed, self._steps[seed]) for seed in seeds]
            return outputs

        def timed_send(channel: Any, event: Any) -> None:
            started = time.monotonic_ns()
            send(channel, event)
            if event.event == "progress":
                self.sends.append((event.seed, event.step, started, time.monotonic_ns()))

        engines_.load, Loop._call, TritonChannel.send = load_engines, timed_call, timed_send

    def _timed(self, name: str, engine: Any) -> Any:
        def run(**inputs: Any) -> Any:
            started, cpu = time.monotonic_ns(), time.thread_time_ns()
            outputs = engine(**inputs)
            self._last = {
                "network": name, "from": started, "cpu": time.thread_time_ns() - cpu, "until": time.monotonic_ns(),
                "thread": threading.get_native_id(),
            }  # fmt: skip
            self.calls.append(self._last)
            return outputs

        return run

    def write(self, threads: dict[int, str]) -> None:
        codecs = ("PIL.", "cv2", "imageio", "png")
        seen = {
            "calls": self.calls,
            "sends": self.sends,
            "engine_threads": self.engine_threads,
            "threads": threads,
            "picture_modules": sorted(name for name in sys.modules if name.startswith(codecs)),
        }
        Path(os.environ[LOG]).write_text(json.dumps(seen))


class TritonPythonModel(InpaintModel):
    def initialize(self, args: Any) -> None:
        self._stopwatch = Stopwatch()
        self._stopwatch.install()
        super().initialize(args)

    def finalize(self) -> None:
        threads = {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        super().finalize()
        self._stopwatch.write(threads)
