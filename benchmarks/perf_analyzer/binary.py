"""NVIDIA's load generator: where its binary comes from, and how it is run.

The wheel tritonclient==2.50.0 carries the binary; it is downloaded once, into the cache beside Triton's. The two
libraries that it needs beyond glibc are in the PyPI Triton. $GESSO_PERF_ANALYZER names another binary.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.perf_analyzer.timings import PerfAnalyzerError, Timings, read_csv, read_export
from gesso_backend.host import tritonserver

WHEEL, VERSION = "tritonclient==2.50.0", "2.50.0"
MEMBER = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}  # under mangled names
RUN_SECONDS = 300
LINES = 20  # of what a failing one says; its usage follows


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
            words = "\n".join((done.stdout + done.stderr).splitlines()[:LINES])
            raise PerfAnalyzerError(f"perf_analyzer ended with {done.returncode}: {words}")
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
