"""The two servers that perf_analyzer drives: gesso, and the peer, a diffusers pipeline in a Python model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from demo import free_ports, serve  # noqa: E402
from gesso_backend import tritonserver  # noqa: E402

PIPELINE = "pipeline"
PIPELINE_MODEL = Path(__file__).parent / "pipeline_model"
START_SECONDS = 180
STOP_SECONDS = 30


class Server:
    """grpc, metrics: "127.0.0.1:port"."""

    def __init__(self, grpc: str, metrics: str) -> None:
        self.grpc = grpc
        self._metrics = f"http://{metrics}/metrics"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels; 0 when there is none."""
        with urllib.request.urlopen(self._metrics, timeout=10) as answer:
            return total(answer.read().decode(), name, **labels)


def total(text: str, name: str, **labels: str) -> float:
    """The same, of a metrics page."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for has, value in lines if all(label in has.split(",") for label in wanted))


@contextmanager
def gesso(bundle: Path, *options: str) -> Iterator[Server]:
    """gesso-serve, on free ports."""
    metrics = free_ports(1)[0]
    with serve(bundle, *options, "--metrics-port", metrics) as grpc:
        yield Server(grpc, f"127.0.0.1:{metrics}")


@contextmanager
def pipeline(checkpoint: Path, threads: int) -> Iterator[Server]:
    """The same Triton with the peer's model."""
    found = tritonserver.find()
    with tempfile.TemporaryDirectory(prefix="gesso-bench-") as folder:
        models = Path(folder) / "models"
        shutil.copytree(PIPELINE_MODEL, models / PIPELINE, ignore=shutil.ignore_patterns("__pycache__"))
        with (models / PIPELINE / "config.pbtxt").open("a") as config:
            for key, value in {"checkpoint": str(checkpoint.resolve()), "threads": str(threads)}.items():
                config.write(f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}\n')
        env = tritonserver.environment(found, Path(folder) / "lib")
        http, grpc, metrics = free_ports(3)
        prefix = f"{Path(folder).name}_"
        options = {
            "model-repository": models,
            "backend-directory": tritonserver.backend_folder(found, Path(folder) / "backends"),
            "http-port": http, "grpc-port": grpc, "metrics-port": metrics,
            "http-address": "127.0.0.1", "grpc-address": "127.0.0.1", "metrics-address": "127.0.0.1",
            "backend-config": f"python,shm-region-prefix-name={prefix}",
            "log-info": "false",
        }  # fmt: skip
        command = [str(found.binary), "--disable-auto-complete-config", *(f"--{k}={v}" for k, v in options.items())]
        triton = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
        try:
            _wait_until_ready(triton, f"http://127.0.0.1:{http}/v2/models/{PIPELINE}/ready")
            yield Server(f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}")
        finally:
            triton.terminate()
            try:
                triton.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                triton.kill()
                triton.wait()
            for region in Path("/dev/shm").glob(f"{prefix}*"):
                region.unlink(missing_ok=True)


def _wait_until_ready(triton: subprocess.Popen[bytes], url: str) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if triton.poll() is not None:
            raise RuntimeError(f"Triton ended with status {triton.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the pipeline was not ready after {START_SECONDS} s")
