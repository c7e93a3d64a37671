"""Where a server's time outside the engines goes, for docs/overhead.md.

    python benchmarks/overhead.py                      the shipped model, and SD 1.5's size (10 GB of memory)
    python benchmarks/overhead.py --sizes shipped      the shipped model alone
    python benchmarks/overhead.py --write              into docs/overhead.md and benchmarks/results/

Latency of an event: from the end of the engine call of its step, in the server, until the client's iterator gives it,
in another process; one clock. Processor time: by thread, from /proc; inside the loop's thread what it spends in engine
calls is taken off. py-spy looks at a server as it is shipped; the rest at one with overhead_model.py's stopwatch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).parent)]

import bench  # noqa: E402
import overhead_profile  # noqa: E402
import overhead_report as report  # noqa: E402
from demo import BIN, SHIPPED, export_shipped, free_ports, wait_until_ready  # noqa: E402
from gesso_client import Client, Progress  # noqa: E402
from overhead_report import CROWD, SERVER  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "overhead.json"
PAGE = ROOT / "docs" / "overhead.md"
MARK = "<!-- measured by benchmarks/overhead.py -->"
PROFILE_SECONDS = 20
IDLE_SECONDS = 5


@dataclass(frozen=True)
class Size:
    name: str
    side: int  # pixels
    steps: int
    requests: int  # of each client


SHIPPED_SIZE = Size("shipped", 128, 20, 10)
SD15 = Size("sd15", 256, 4, 2)
Moments = Mapping[tuple[int, int], int]  # (seed, step) -> ns


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["shipped", "sd15"], choices=["shipped", "sd15"])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/overhead.md")
    options = parser.parse_args()
    export_shipped(SHIPPED)
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    record["machine"] = dict(bench.machine(len(os.sched_getaffinity(0))))
    if "shipped" in options.sizes:
        record["shipped"] = measure(SHIPPED_SIZE, SHIPPED)
        keep(record, options.write)
        record["profile"] = profile(SHIPPED_SIZE, SHIPPED)
        keep(record, options.write)
    if "sd15" in options.sizes:
        _, bundle = bench.artefacts(bench.SIZES[1], ROOT / "checkpoints", ROOT / "bundles")
        record["sd15"] = measure(SD15, bundle)
        keep(record, options.write)
    print(report.markdown(record))
    return 0


def keep(record: Mapping[str, Any], write: bool) -> None:
    """What is measured so far: a run that fails later has not been for nothing."""
    if write:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
        bench.put(PAGE, MARK, report.markdown(record))


def measure(size: Size, bundle: Path) -> dict[str, Any]:
    """Event latencies alone and in a crowd, and the processor time of each thread in both."""
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        server = [sys.executable, str(Path(__file__).with_name("overhead_server.py"))]
        with serving(server, bundle, log) as (url, pid), Client(url) as client:
            crowd(client, size, 1, 1, seed=10**6)  # warm
            before = cpu(pid)
            time.sleep(IDLE_SECONDS)
            resting = (before, cpu(pid))
            for name, clients in (("alone", 1), ("crowd", CROWD)):
                before, started = cpu(pid), time.monotonic_ns()
                received = crowd(client, size, clients, size.requests, seed=1000 * clients)
                seen[name] = (before, cpu(pid), started, time.monotonic_ns(), received)
        said = json.loads(log.read_text())
    runs = {name: summary(said, *what) for name, what in seen.items()}
    idle = {name: seconds / IDLE_SECONDS for name, seconds in shares(said, [], *resting).items()}
    return {"size": vars(size), "picture_modules": said["picture_modules"], "idle": idle, **runs}


def profile(size: Size, bundle: Path) -> dict[str, Any]:
    """py-spy on the server as it is, with a crowd."""
    with serving([str(BIN / "gesso-serve")], bundle) as (url, pid), Client(url) as client:
        crowd(client, size, 1, 1, seed=1)
        stop = threading.Event()
        threads = [threading.Thread(target=ask_until, args=(client, size, n, stop)) for n in range(CROWD)]
        for thread in threads:
            thread.start()
        sampled = overhead_profile.record(stubs(pid)["inpaint"], PROFILE_SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
    rows = [{"thread": thread, "module": module, "share": sampled.share(thread, module)}
            for (thread, module), _ in sampled.samples.most_common()]  # fmt: skip
    return {"samples": sampled.samples.total(), "python": sampled.python, "rows": rows}


@contextmanager
def serving(command: Sequence[str], bundle: Path, log: Path | None = None) -> Iterator[tuple[str, int]]:
    """A server without caches; yields its gRPC address and the pid of gesso-serve."""
    http, grpc, metrics = free_ports(3)
    ports = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    env = {**os.environ, "GESSO_BENCH_LOG": str(log)}
    server = subprocess.Popen([*command, str(bundle), *ports, "--cache-mib=0"], env=env)
    try:
        wait_until_ready(server, f"127.0.0.1:{grpc}")
        yield f"127.0.0.1:{grpc}", server.pid
    finally:
        server.terminate()
        server.wait()


def crowd(client: Client, size: Size, clients: int, requests: int, seed: int) -> dict[tuple[int, int], int]:
    """Closed loop: `clients` at once, each `requests` one after another; when each progress event came, ns."""
    received: dict[tuple[int, int], int] = {}

    def one(number: int) -> None:
        for request in range(requests):
            received.update(ask(client, size, seed + number * requests + request))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(received) != clients * requests * size.steps:
        raise RuntimeError(f"{len(received)} progress events for {clients * requests} requests")
    return received


def ask(client: Client, size: Size, seed: int) -> dict[tuple[int, int], int]:
    image = np.random.default_rng(seed).integers(0, 255, (size.side, size.side, 3), dtype=np.uint8)
    mask = np.zeros((size.side, size.side), np.uint8)
    mask[size.side // 4 : -size.side // 4, size.side // 4 : -size.side // 4] = 255
    received = {}
    for event in client.stream(
        image, mask, f"a balloon, number {seed}", seed=seed, scheduler="ddim", num_inference_steps=size.steps
    ):
        if isinstance(event, Progress):
            received[seed, event.step] = time.monotonic_ns()
    return received


def ask_until(client: Client, size: Size, number: int, stop: threading.Event) -> None:
    seed = 10**7 * (number + 1)
    while not stop.is_set():
        ask(client, size, seed)
        seed += 1


def summary(
    said: Mapping[str, Any], before: Cpu, after: Cpu, started: int, ended: int, received: Moments
) -> dict[str, Any]:
    """One run, from what the server's stopwatch, /proc and the clients saw."""
    calls = [call for call in said["calls"] if started <= call["from"] and call["until"] <= ended]
    done = {(seed, step): call["until"] for call in calls for seed, step in call.get("steps", ())}
    sends = {(seed, step): (begun, over) for seed, step, begun, over in said["sends"]}
    wall = (ended - started) / 1e9
    whole = [(received[key] - done[key]) / 1e9 for key in received]
    waits = [(sends[key][0] - done[key]) / 1e9 for key in received]
    ways = [(received[key] - sends[key][0]) / 1e9 for key in received]
    return {
        "seconds": wall,
        "latency": quantiles(whole),
        "to_send": quantiles(waits),  # sampler, outbox: until the channel is asked to send
        "to_client": quantiles(ways),  # Triton, gRPC, SDK
        "cpu": shares(said, calls, before, after),
        "engine_wall": sum(call["until"] - call["from"] for call in calls) / 1e9 / wall,
        "between_calls_ms": gap(calls) * 1000,
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    cut = np.quantile(values, [0.5, 0.9, 0.99])
    return {"p50": float(cut[0]), "p90": float(cut[1]), "p99": float(cut[2]), "longest": max(values), "n": len(values)}


def gap(calls: Sequence[Mapping[str, Any]]) -> float:
    """Median seconds of the loop between two denoiser calls that follow one another."""
    pairs = itertools.pairwise(calls)
    return statistics.median([(b["from"] - a["until"]) / 1e9 for a, b in pairs if "steps" in a and "steps" in b])


def shares(said: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], before: Cpu, after: Cpu) -> dict[str, float]:
    """Processor seconds of a run, by what they went to. `engine`: the loop in its calls, and the engines' threads."""
    spent = {key: after[key] - before.get(key, 0) for key in after}
    names = {int(thread): name for thread, name in said["threads"].items()}
    engine_threads = set(said["engine_threads"])
    inside = sum(call["cpu"] for call in calls) / 1e9
    loop = said["calls"][0]["thread"]
    found: dict[str, float] = {"engine": inside}
    for (process, thread), seconds in spent.items():
        if process != "inpaint":
            name = process
        elif thread in engine_threads:
            name = "engine"
        elif thread == loop:
            name, seconds = "gesso-loop, outside the engine", seconds - inside
        else:
            name = names.get(thread, "Triton's stub").removesuffix("_0").replace("MainThread", "Triton's stub")
        found[name] = found.get(name, 0.0) + seconds
    return found


Cpu = dict[tuple[str, int], float]  # (process, thread) -> seconds on a processor


def cpu(pid: int) -> Cpu:
    """Of the threads of Triton and its models, under a gesso-serve."""
    found = {}
    for process, own in {**stubs(pid), SERVER: triton(pid)}.items():
        for task in Path(f"/proc/{own}/task").iterdir():
            nanoseconds = int((task / "schedstat").read_text().split()[0])
            found[process, int(task.name) if process == "inpaint" else 0] = nanoseconds / 1e9 + (
                0 if process == "inpaint" else found.get((process, 0), 0.0)
            )
    return found


def stubs(pid: int) -> dict[str, int]:
    """Model -> pid of its Python process; they carry the name of their server's shared memory."""
    found = {}
    for file, command in commands():
        if f"gesso_{pid}_" in command and "triton_python_backend_stub" in command:
            found[command.split("/1/model.py")[0].rpartition("/")[2]] = file
    return found


def triton(pid: int) -> int:
    return next(p for p, command in commands() if f"shm-region-prefix-name=gesso_{pid}_" in command)


def commands() -> Iterator[tuple[int, str]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(file.parent.name), file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


if __name__ == "__main__":
    sys.exit(main())
