"""One server at every load: closed loop, then Poisson arrivals."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.artefacts import LITTLE_WORLD, shipped
from benchmarks.harness.machine import machine, threads
from benchmarks.harness.server import Server, serve
from benchmarks.perf_analyzer.binary import VERSION, PerfAnalyzer
from benchmarks.perf_analyzer.curves import gesso_curve, torch_curve
from benchmarks.perf_analyzer.pipeline import PIPELINE, pipeline
from benchmarks.perf_analyzer.requests import input_file, requests
from benchmarks.perf_analyzer.timings import PerfAnalyzerError, Timings
from gesso_backend.host import tritonserver

CONCURRENCY = (1, 2, 4, 8)
LOADS = (0.5, 0.8, 1.1)  # of what gesso does one request after another
ASYNC = "-i grpc --async"
OPTIONS = {"inpaint_once": ASYNC, "inpaint": f"{ASYNC} --streaming", PIPELINE: ASYNC}  # by model


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


@dataclass(frozen=True)
class Bench:
    """A server and what it is loaded with."""

    analyzer: PerfAnalyzer
    server: Server
    model: str
    data: Path
    count: int  # requests at each load

    def warm(self) -> None:
        for at_once in (1, 4):
            self.analyzer.run(self._options(f"--concurrency-range {at_once}", 4), self.server.grpc, self.data)

    def closed_loop(self) -> list[Run]:
        return [self._run("closed", at_once, f"--concurrency-range {at_once}") for at_once in CONCURRENCY]

    def poisson(self, rates: Sequence[float]) -> list[Run]:
        options = "--request-rate-range {0}:{0} --request-distribution poisson"
        return [self._run("poisson", rate, options.format(rate)) for rate in rates]

    def _options(self, load: str, count: int) -> list[str]:
        return ["-m", self.model, *OPTIONS[self.model].split(), *load.split(), "--request-count", str(count)]

    def _run(self, loop: str, load: float, options: str) -> Run:
        before = counted(self.server)
        timings, csv, command = self.analyzer.run(self._options(options, self.count), self.server.grpc, self.data)
        calls, rows, answered = (after - earlier for after, earlier in zip(counted(self.server), before, strict=True))
        if timings.requests != self.count or (self.model != PIPELINE and answered != self.count):
            raise PerfAnalyzerError(f"{timings.requests} of {self.count} requests; the server answered {answered}")
        run = Run.of(self.model, loop, load, timings, rows / calls if calls else None, command, csv)
        print(
            f"{self.model} {loop} {load:g}: {run.per_second:.2f}/s, mean {run.mean:.2f} s, p90 {run.p90:.2f} s, "
            f"{f'{run.rows_per_step:.2f} rows a step' if run.rows_per_step else 'no batches'}",
            flush=True,
        )
        return run


def measure(model: str, count: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with this model's runs, anew. inpaint_once comes first: it sets the rates of the Poisson arrivals."""
    others = [run for run in record["runs"] if run["model"] != model]
    curve = dict(record.get("curve", {}))
    with tempfile.TemporaryDirectory() as folder:
        analyzer, data = PerfAnalyzer(Path(folder)), Path(folder) / "requests.json"
        data.write_text(input_file(requests()))
        with server_of(model, Path(folder)) as server:
            bench = Bench(analyzer, server, model, data, count)
            bench.warm()
            runs = bench.closed_loop()
            rates = record.get("rates") or [round(share * runs[0].per_second, 3) for share in LOADS]
            runs += bench.poisson(rates)
        if model == PIPELINE:
            curve[PIPELINE] = torch_curve(LITTLE_WORLD, threads(), map(int, curve["gesso"]))
        else:
            curve["gesso"] = gesso_curve(Path(folder))
    versions = {**machine(), "triton": "2.51.0 (24.10, PyPI)", "perf_analyzer": VERSION}
    done = others + [asdict(run) for run in runs]
    record = {"machine": versions, "loads": list(LOADS), "rates": rates, "runs": done, "curve": curve}
    read: dict[str, Any] = json.loads(json.dumps(record))  # as it will be read again: its keys are words
    return read


def server_of(model: str, cache: Path) -> AbstractContextManager[Server]:
    """cache: a folder that has the server measure its networks now; a profile of another day may be of a busy hour."""
    if model == PIPELINE:
        return pipeline(LITTLE_WORLD, threads())
    environment = {"GESSO_TRITON": str(tritonserver.cache_folder()), "XDG_CACHE_HOME": str(cache)}
    return serve(shipped(), "--cache-mib=0", environment=environment)


def counted(server: Server) -> tuple[float, float, float]:
    """(denoiser calls, their rows, requests answered) of gesso; zeros of the peer."""
    time.sleep(0.2)  # metrics trail the answers a little
    return (
        server.metric("gesso_rows_per_step_count"),
        server.metric("gesso_rows_per_step_sum"),
        server.metric("gesso_requests_total", outcome="ok"),
    )
