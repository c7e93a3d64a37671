"""NVIDIA's load generator: where its binary comes from, how it is asked, and what its two reports say.

The wheel tritonclient==2.50.0 carries the binary; it is downloaded once, into the cache beside Triton's. The two
libraries that it needs beyond glibc are in the PyPI Triton. $GESSO_PERF_ANALYZER names another binary.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gesso_backend import tritonserver

WHEEL, VERSION = "tritonclient==2.50.0", "2.50.0"
MEMBER = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}  # under mangled names
RUN_SECONDS = 300
LINES = 20  # of what a failing one says; its usage follows


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
        return float(np.quantile(self.latencies, share))


class PerfAnalyzer:
    """The binary and its environment; `scratch` holds links and reports. Raises PerfAnalyzerError."""

    def __init__(self, scratch: Path) -> None:
        self._binary = find()
        self._scratch = scratch
        links = scratch / "libraries"
        links.mkdir()
        for name, pattern in LIBRARIES.items():
            for library in (tritonserver.cache_folder() / "nvidia_pytriton.libs").glob(pattern):
                (links / name).symlink_to(library)
        paths = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        self._environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}

    def run(self, options: Sequence[str], address: str, data: Path) -> tuple[Timings, dict[str, str], str]:
        """(what it timed, the row of its CSV, the command as one would type it)."""
        report, export = self._scratch / "report.csv", self._scratch / "export.json"
        export.unlink(missing_ok=True)  # it refuses one that exists
        options = [*options, "--verbose-csv"]
        places = ["-u", address, "--input-data", str(data), "-f", str(report), "--profile-export-file", str(export)]
        done = subprocess.run(
            [str(self._binary), *options, *places],
            env=self._environment, capture_output=True, text=True, timeout=RUN_SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[:LINES])
            raise PerfAnalyzerError(f"perf_analyzer ended with {done.returncode}: {said}")
        timings, row = read_export(json.loads(export.read_text())), read_csv(report.read_text())
        shown = shlex.join(["perf_analyzer", *options, "-u", "HOST:PORT", "--input-data", data.name])
        return timings, row, shown


def find() -> Path:
    """The binary: the one that $GESSO_PERF_ANALYZER names, else that of the wheel, downloaded if it is not there."""
    chosen = os.environ.get("GESSO_PERF_ANALYZER")
    if chosen:
        return Path(chosen)
    binary = tritonserver.cache_folder().parent / f"perf_analyzer-{VERSION}"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
            unpacked = _download(Path(folder))
            unpacked.chmod(0o755)
            unpacked.replace(binary)
    return binary


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--only-binary=:all:", "--platform=manylinux1_x86_64", f"--dest={folder}", WHEEL]
    if subprocess.run(pip).returncode != 0:
        raise PerfAnalyzerError(f"pip could not download {WHEEL}; or name a binary in $GESSO_PERF_ANALYZER")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


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


def input_file(requests: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> str:
    """Requests in perf_analyzer's JSON; it sends them in turn."""
    return json.dumps({"data": [{name: _listed(array) for name, array in inputs.items()} for inputs in requests]})


def _listed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    content = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
    return {"content": content, "shape": list(array.shape)}
