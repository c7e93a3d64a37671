"""A server under a closed loop of one client and of a crowd, with the stopwatch and without."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import processes
from benchmarks.harness.server import serve
from benchmarks.overhead import samples
from benchmarks.overhead.clients import CROWD, Size, closed_loop, send_until
from benchmarks.overhead.summary import shares, summary
from gesso_client import Client

WITH_STOPWATCH = (sys.executable, "-m", "benchmarks.overhead.server")
PROFILE_SECONDS = 20
IDLE_SECONDS = 5


def measure(size: Size, bundle: Path) -> dict[str, Any]:
    """Event latencies alone and in a crowd, and the processor time of each thread in both."""
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        serving = serve(bundle, "--cache-mib=0", command=WITH_STOPWATCH, environment={"GESSO_BENCH_LOG": str(log)})
        with serving as server, Client(server.grpc) as client:
            closed_loop(client, size, 1, 1, seed=10**6)  # warm
            before = processes.cpu(server.pid)
            time.sleep(IDLE_SECONDS)
            resting = (before, processes.cpu(server.pid))
            for name, clients in (("alone", 1), ("crowd", CROWD)):
                before, started = processes.cpu(server.pid), time.monotonic_ns()
                received = closed_loop(client, size, clients, size.requests, seed=1000 * clients)
                seen[name] = (before, processes.cpu(server.pid), started, time.monotonic_ns(), received)
        stopwatch = json.loads(log.read_text())
    runs = {name: summary(stopwatch, *run) for name, run in seen.items()}
    idle = {name: seconds / IDLE_SECONDS for name, seconds in shares(stopwatch, [], *resting).items()}
    return {"size": vars(size), "picture_modules": stopwatch["picture_modules"], "idle": idle, **runs}


def profile(size: Size, bundle: Path) -> dict[str, Any]:
    """py-spy on the server as it is, with a crowd."""
    with serve(bundle, "--cache-mib=0") as server, Client(server.grpc) as client:
        closed_loop(client, size, 1, 1, seed=1)
        stop = threading.Event()
        threads = [threading.Thread(target=send_until, args=(client, size, n, stop)) for n in range(CROWD)]
        for thread in threads:
            thread.start()
        sampled = samples.record(processes.models(server.pid)[processes.STREAMING], PROFILE_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
    rows = [{"thread": thread, "module": module, "share": sampled.share(thread, module)}
            for (thread, module), _ in sampled.samples.most_common()]  # fmt: skip
    return {"samples": sampled.samples.total(), "python": sampled.python, "rows": rows}
