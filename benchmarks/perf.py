"""gesso under NVIDIA's load generator (`make bench-triton`), beside a diffusers pipeline in a Python model of Triton.

    python benchmarks/perf.py                  measure (about 10 minutes) and print the tables
    python benchmarks/perf.py --write          the same, into docs/benchmarks.md, its plots and benchmarks/results/
    python benchmarks/perf.py --report         only write them again from benchmarks/results/perf.json

Both servers are the same Triton, with the same weights, on the same threads, and get the same file of requests: those
of load.py, with 8, 20, 30 or 50 steps, each once at every load. Closed loop is a fixed number of requests at once; open
loop is Poisson arrivals, at rates that are shares of what gesso does one request after another. gesso's caches are off.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "examples"), str(Path(__file__).parent)]

import load  # noqa: E402
import perf_analyzer  # noqa: E402
import perf_report  # noqa: E402
import perf_server  # noqa: E402
from bench import machine  # noqa: E402
from demo import HERE, SHIPPED, export_shipped  # noqa: E402
from gesso_backend import profile as profiles  # noqa: E402
from gesso_backend import tritonserver  # noqa: E402
from perf_analyzer import PerfAnalyzer, Timings  # noqa: E402
from perf_server import PIPELINE, Server  # noqa: E402

CHECKPOINT = HERE / SHIPPED.name
CONCURRENCY = (1, 2, 4, 8)
LOADS = (0.5, 0.8, 1.1)  # of what gesso does one request after another
ASYNC = "-i grpc --async"
WAYS = {"inpaint_once": ASYNC, "inpaint": f"{ASYNC} --streaming", PIPELINE: ASYNC}  # by model
GUIDANCE = 3.0
REQUESTS = 32  # different ones: eight of each number of steps
CURVE_TRIES = 5


@dataclass(frozen=True)
class Run:
    """One model at one load; seconds."""

    model: str
    loop: str  # closed, or poisson
    load: float  # requests at once, or requests a second
    requests: int
    per_second: float
    mean: float
    p50: float
    p90: float
    longest: float
    first: float | None  # mean time to a stream's first event
    in_flight: float
    rows_per_step: float | None
    command: str
    csv: dict[str, str]  # what perf_analyzer reports itself

    @classmethod
    def of(
        cls, model: str, loop: str, load: float, timings: Timings, rows: float | None, command: str, csv: dict[str, str]
    ) -> Run:
        first = sum(timings.firsts) / timings.requests if model == "inpaint" else None
        return cls(
            model, loop, load, timings.requests, timings.per_second, timings.mean, timings.quantile(0.5),
            timings.quantile(0.9), timings.quantile(1.0), first, timings.in_flight, rows, command, csv,
        )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="at each load; a multiple of 4")
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/")
    parser.add_argument("--only", choices=list(WAYS), help="measure one model anew, into the kept results")
    parser.add_argument("--report", action="store_true", help="measure nothing; write from the kept results")
    options = parser.parse_args()
    if options.report:
        perf_report.write(json.loads(perf_report.RESULTS.read_text()))
        return 0
    export_shipped(SHIPPED)
    record = json.loads(perf_report.RESULTS.read_text()) if options.only else {"runs": []}
    for model in [options.only] if options.only else WAYS:
        record = measure(model, options.requests, record)
        if options.write:
            perf_report.RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(perf_report.markdown(record))
    if options.write:
        perf_report.write(record)
    return 0


def measure(model: str, count: int, record: dict[str, Any]) -> dict[str, Any]:
    """The record with this model's runs, anew. inpaint_once comes first: it sets the rates of the Poisson arrivals."""
    threads = len(os.sched_getaffinity(0))
    kept = [run for run in record["runs"] if run["model"] != model]
    curve = dict(record.get("curve", {}))
    with tempfile.TemporaryDirectory() as folder:
        analyzer, data = PerfAnalyzer(Path(folder)), Path(folder) / "requests.json"
        data.write_text(perf_analyzer.input_file(requests()))
        # A folder of its own has the server measure its networks now: a profile that was kept may be of a busy hour.
        cache = {"GESSO_TRITON": str(tritonserver.cache_folder()), "XDG_CACHE_HOME": folder}
        with patched(cache), server_of(model, threads) as server:
            warm(analyzer, server, model, data)
            runs = closed_loop(analyzer, server, model, data, count)
            rates = record.get("rates") or [round(share * runs[0].per_second, 3) for share in LOADS]
            runs += poisson(analyzer, server, model, data, count, rates)
        if model == PIPELINE:
            curve[PIPELINE] = torch_curve(threads, map(int, curve["gesso"]))
        else:
            curve["gesso"] = gesso_curve(Path(folder))
    versions = {**machine(threads), "triton": "2.51.0 (24.10, PyPI)", "perf_analyzer": perf_analyzer.VERSION}
    done = kept + [asdict(run) for run in runs]
    record = {"machine": versions, "loads": list(LOADS), "rates": rates, "runs": done, "curve": curve}
    read: dict[str, Any] = json.loads(json.dumps(record))  # as it will be read again: its keys are words
    return read


def server_of(model: str, threads: int) -> AbstractContextManager[Server]:
    if model == PIPELINE:
        return perf_server.pipeline(CHECKPOINT, threads)
    return perf_server.gesso(SHIPPED, "--cache-mib=0")


@contextmanager
def patched(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, for the servers started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def requests() -> list[dict[str, np.ndarray[Any, Any]]]:
    """load.py's requests, each as the wire's tensors, in an order that does not repeat."""
    side = (load.SIDE, load.SIDE)
    image = np.asarray(Image.open(ROOT / "examples" / "landscape.png").convert("RGB").resize(side))
    jobs = load.pool()[:REQUESTS]
    random.Random(0).shuffle(jobs)
    return [
        {
            "prompt": np.array([job.prompt], np.object_),
            "image": image,
            "mask_image": job.mask,
            "num_inference_steps": np.array([job.steps], np.int32),
            "guidance_scale": np.array([GUIDANCE], np.float32),
            "seed": np.array([job.seed], np.int64),
        }
        for job in jobs
    ]


def warm(analyzer: PerfAnalyzer, server: Server, model: str, data: Path) -> None:
    for at_once in (1, 4):
        analyzer.run(arguments(model, f"--concurrency-range {at_once}", 4), server.grpc, data)


def closed_loop(analyzer: PerfAnalyzer, server: Server, model: str, data: Path, count: int) -> list[Run]:
    return [
        one(analyzer, server, model, data, count, "closed", at_once, f"--concurrency-range {at_once}")
        for at_once in CONCURRENCY
    ]


def poisson(
    analyzer: PerfAnalyzer, server: Server, model: str, data: Path, count: int, rates: Sequence[float]
) -> list[Run]:
    return [
        one(analyzer, server, model, data, count, "poisson", rate,
            f"--request-rate-range {rate}:{rate} --request-distribution poisson")
        for rate in rates
    ]  # fmt: skip


def arguments(model: str, load_options: str, count: int) -> list[str]:
    return ["-m", model, *WAYS[model].split(), *load_options.split(), "--request-count", str(count)]


def one(
    analyzer: PerfAnalyzer, server: Server, model: str, data: Path, count: int, loop: str, load: float, how: str
) -> Run:
    before = counted(server)
    timings, csv, command = analyzer.run(arguments(model, how, count), server.grpc, data)
    calls, rows, answered = (after - earlier for after, earlier in zip(counted(server), before, strict=True))
    if timings.requests != count or (model != PIPELINE and answered != count):
        raise perf_analyzer.PerfAnalyzerError(f"{timings.requests} of {count} requests; the server answered {answered}")
    run = Run.of(model, loop, load, timings, rows / calls if calls else None, command, csv)
    print(
        f"{model} {loop} {load:g}: {run.per_second:.2f}/s, mean {run.mean:.2f} s, p90 {run.p90:.2f} s, "
        f"{f'{run.rows_per_step:.2f} rows a step' if run.rows_per_step else 'no batches'}",
        flush=True,
    )
    return run


def counted(server: Server) -> tuple[float, float, float]:
    """(denoiser calls, their rows, requests answered) of gesso; zeros of the peer."""
    time.sleep(0.2)  # metrics trail the answers a little
    return (
        server.metric("gesso_rows_per_step_count"),
        server.metric("gesso_rows_per_step_sum"),
        server.metric("gesso_requests_total", outcome="ok"),
    )


def gesso_curve(cache: Path) -> dict[int, float]:
    """Rows -> seconds of a denoiser call, as the server measured it when it started with this cache."""
    (kept,) = (cache / "gesso" / "profiles").glob("*.json")
    seconds = profiles.read(kept).seconds["unet"]
    return dict(seconds[max(seconds)])


def torch_curve(threads: int, sizes: Iterable[int]) -> dict[int, float]:
    """The same of the pipeline's network, at these sizes of a batch."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(threads)
    unet = UNet2DConditionModel.from_pretrained(CHECKPOINT / "unet", local_files_only=True, torch_dtype=torch.float32)
    side, tokens = unet.config.sample_size, 77
    seconds = {}
    for rows in sizes:
        shape = (rows, unet.config.in_channels, side, side)
        inputs = (
            torch.randn(shape),
            torch.full((rows,), 500),
            torch.randn(rows, tokens, unet.config.cross_attention_dim),
        )
        with torch.inference_mode():
            times = []
            for _ in range(CURVE_TRIES):
                started = time.perf_counter()
                unet(*inputs)
                times.append(time.perf_counter() - started)
        seconds[rows] = min(times[1:])
    return seconds


if __name__ == "__main__":
    sys.exit(main())
