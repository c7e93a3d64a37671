"""NVIDIA's own load generator, unmodified, against both models.

The wheel tritonclient==2.50.0 carries the binary in its data/bin; to run this test:

    pip download tritonclient==2.50.0 --no-deps && unzip tritonclient-2.50.0-*.whl
    GESSO_PERF_ANALYZER=$PWD/tritonclient-2.50.0.data/data/bin/perf_analyzer make test-slow
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e.jobs import inpaint, text_to_image
from e2e.server import Server
from e2e.wire import Tensors
from gesso_backend.host import tritonserver

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# The two libraries the binary needs beyond glibc; the PyPI Triton has them, under mangled names.
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
SHORT = "--measurement-mode count_windows --measurement-request-count 10 --stability-percentage 90 --max-trials 3"

WAYS = {
    "gRPC": "-m inpaint_once -i grpc --concurrency-range 1:4:3",
    "gRPC, asynchronous": "-m inpaint_once -i grpc --async --concurrency-range 4",
    "HTTP": "-m inpaint_once -i http --concurrency-range 2",
    "stream": "-m inpaint -i grpc --async --streaming --concurrency-range 2",
}


@pytest.fixture(scope="module")
def perf_analyzer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The binary, and the environment it runs in."""
    found = os.environ.get("GESSO_PERF_ANALYZER") or shutil.which("perf_analyzer")
    if not found:
        pytest.skip("perf_analyzer is not there; this file's docstring says where to get it")
    binary, links = Path(found).resolve(), tmp_path_factory.mktemp("libraries")
    for name, pattern in LIBRARIES.items():
        for library in (tritonserver.cache_folder() / "nvidia_pytriton.libs").glob(pattern):
            (links / name).symlink_to(library)
    binary.chmod(binary.stat().st_mode | 0o100)  # unzip does not make it executable
    paths = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return binary, {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("job", ["text_to_image", "inpaint"])
@pytest.mark.parametrize("way", WAYS)
def test_perf_analyzer_measures_us(
    server: Server, perf_analyzer: tuple[Path, dict[str, str]], tmp_path: Path, way: str, job: str
) -> None:
    binary, env = perf_analyzer
    data = tmp_path / "input.json"
    data.write_text(json.dumps({"data": [listed(inpaint() if job == "inpaint" else text_to_image())]}))
    address = server.http if way == "HTTP" else server.grpc
    before = {outcome: server.metric("gesso_requests_total", outcome=outcome) for outcome in ("ok", "invalid_arg")}
    command = [str(binary), "-u", address, "--input-data", str(data), *WAYS[way].split(), *SHORT.split()]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [int(count) for count in re.findall(r"Request count: (\d+)", done.stdout)]
    assert counts
    assert min(counts) >= 10
    server.until(lambda: server.metric("gesso_requests_total", outcome="ok") >= before["ok"] + sum(counts))
    assert server.metric("gesso_requests_total", outcome="invalid_arg") == before["invalid_arg"]


def listed(inputs: Tensors) -> dict[str, dict[str, list[object]]]:
    """perf_analyzer's JSON of tensors."""
    return {
        name: {
            "content": [v.decode() if isinstance(v, bytes) else v for v in array.reshape(-1).tolist()],
            "shape": list(array.shape),
        }
        for name, array in inputs.items()
    }
