"""The peer: a diffusers pipeline in a Python model of Triton."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.server import Server, free_ports, wait_until_ready
from gesso_backend.host import tritonserver

PIPELINE = "pipeline"
PIPELINE_MODEL = Path(__file__).parent / "pipeline_model"
STOP_SECONDS = 30


@contextmanager
def pipeline(checkpoint: Path, threads: int) -> Iterator[Server]:
    """gesso's own Triton, with the peer's model."""
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
        server = Server(f"127.0.0.1:{grpc}", f"127.0.0.1:{http}", f"127.0.0.1:{metrics}", triton.pid)
        try:
            wait_until_ready(triton, server.http)
            yield server
        finally:
            triton.terminate()
            try:
                triton.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                triton.kill()
                triton.wait()
            for region in Path("/dev/shm").glob(f"{prefix}*"):
                region.unlink(missing_ok=True)
