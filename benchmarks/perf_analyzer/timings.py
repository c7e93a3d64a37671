"""What perf_analyzer's two reports say."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.quantiles import quantile


class PerfAnalyzerError(Exception):
    pass


@dataclass(frozen=True)
class Timings:
    """Of one run. Latencies are in seconds, from sending a request until its last response is there."""

    requests: int
    seconds: float  # from sending the first request until the last answer
    latencies: tuple[float, ...]
    firsts: tuple[float, ...]  # until the first response of each: of a stream, its first event

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def mean(self) -> float:
        return statistics.fmean(self.latencies)

    @property
    def in_flight(self) -> float:
        """Requests in the server, on average over the run."""
        return sum(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        return quantile(self.latencies, share)


def read_csv(text: str) -> dict[str, str]:
    """The one row of its report. Raises PerfAnalyzerError when there is not exactly one."""
    rows = list(csv.DictReader(io.StringIO(text.strip())))
    if len(rows) != 1:
        raise PerfAnalyzerError(f"expected a report of one row, found {len(rows)}")
    return rows[0]


def read_export(export: Mapping[str, Any]) -> Timings:
    """Its record of every request, of a run at one load. A stream's last response is the empty one that ends it.

    Raises PerfAnalyzerError when there is none, or an unanswered one.
    """
    experiments = export["experiments"]
    if len(experiments) != 1 or not experiments[0]["requests"]:
        raise PerfAnalyzerError(f"expected one run with requests, found {len(experiments)}")
    requests = experiments[0]["requests"]
    if any(not request["response_timestamps"] for request in requests):
        raise PerfAnalyzerError("a request was not answered")
    sent = [request["timestamp"] for request in requests]
    answered = [request["response_timestamps"][-1] for request in requests]
    first = [request["response_timestamps"][0] for request in requests]
    return Timings(
        requests=len(requests),
        seconds=(max(answered) - min(sent)) / 1e9,
        latencies=tuple((b - a) / 1e9 for a, b in zip(sent, answered, strict=True)),
        firsts=tuple((b - a) / 1e9 for a, b in zip(sent, first, strict=True)),
    )
