"""The child process: `python -m gesso_export.tensorrt.builder TASK --events FD`. Builds one engine and checks it.

Says what it does as JSON, a line an event, to the file descriptor; ends with `done` or `error`.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from gesso_export.errors import BuildError, ExportError
from gesso_export.proof import reference
from gesso_export.tensorrt import check, gpu, optional, plan, quantize
from gesso_export.tensorrt import task as tasks
from gesso_export.tensorrt.task import BuildTask

PR_SET_PDEATHSIG = 1
_VERSIONS = ("polygraphy", "onnxruntime-gpu", "nvidia-modelopt", "cuda-python")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gesso_export.tensorrt.builder")
    parser.add_argument("task", type=Path)
    parser.add_argument("--events", type=int, required=True, metavar="FD")
    arguments = parser.parse_args(argv)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody is left to publish what it builds
    with open(arguments.events, "w", encoding="utf-8") as stream:
        try:
            done = run(tasks.read(arguments.task), stream)
        except ExportError as error:
            _emit(stream, {"event": "error", "message": str(error)})
            return 1
        _emit(stream, {"event": "done", **done})
    return 0


def run(task: BuildTask, stream: TextIO) -> dict[str, Any]:
    """Build and check; returns what goes into the published result."""
    spec = task.spec
    trt, polygraphy = optional("tensorrt"), optional("polygraphy.backend.trt")
    here = gpu.look(task.device)
    if here.name != spec.gpu or trt.__version__ != spec.tensorrt:
        raise BuildError(f"the engine is for {spec.gpu} and TensorRT {spec.tensorrt}; "
                         f"this is {here.name} and {trt.__version__}")  # fmt: skip
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    cuda = optional("cuda.bindings.runtime")
    cuda.cudaSetDevice(task.device)
    cases = reference.load(task.bundle / reference.FILE)[spec.network]
    onnx, started = min(spec.source, key=len), time.monotonic()  # its data is named after it
    source = graph = _linked(task, onnx)
    if spec.quantize:
        _emit(stream, {"event": "stage", "stage": "quantize"})
        graph = task.staging / f"{spec.network}.{spec.quantize}.onnx"
        modelopt = optional("modelopt.onnx.quantization")
        quantize.quantize(source, spec.quantize, spec.precision, cases, graph, modelopt)
    _emit(stream, {"event": "stage", "stage": "build"})
    built = plan.build(graph, spec, task.timing_cache, lambda event: _emit(stream, event), trt, polygraphy)
    seconds = time.monotonic() - started
    file = task.staging / f"{spec.network}.plan"
    file.write_bytes(built)
    _emit(stream, {"event": "stage", "stage": "verify"})
    verified = check.compare(
        spec,
        cases,
        check.polygraphy_runner(built, polygraphy),
        check.onnx_runtime(source, task.device, optional("onnxruntime")),
    )
    return {
        "plan": file.name,
        "sha256": hashlib.sha256(built).hexdigest(),
        "bytes": len(built),
        "compute_capability": here.compute_capability,
        "seconds": round(seconds, 1),
        "verified": verified,
        "versions": {"tensorrt": trt.__version__, **_installed()},
    }


def _linked(task: BuildTask, onnx: str) -> Path:
    """The network's files in the staging folder: modelopt writes beside what it reads."""
    for name in task.spec.source:
        os.link(task.bundle / name, task.staging / name)
    return task.staging / onnx


def _installed() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _emit(stream: TextIO, event: Mapping[str, Any]) -> None:
    stream.write(json.dumps(event) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
