"""The engines that can run here, and how TensorRT's are built."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import onnxruntime

from benchmarks.gpu.model import Model
from benchmarks.harness.alternate import timed
from benchmarks.harness.paths import BIN
from gesso_backend.engines.tensorrt.device import Device, cuda_runtime


def available() -> list[str]:
    """ONNX Runtime first, with which the other is compared."""
    found = ["onnxruntime"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else []
    if importlib.util.find_spec("tensorrt"):
        found.append("tensorrt")
    if not found:
        raise SystemExit("gpu: neither onnxruntime-gpu nor TensorRT is installed; --dry-run runs on a CPU")
    return found


def build(model: Model, bundle: Path, device: int) -> float:
    """TensorRT engines for the one size that is measured, verified and published; what is there is skipped. Seconds."""
    side, most = model.side, model.rows[-1]
    profile = f"bench=1x{side}x{side},{most}x{side}x{side},{most}x{side}x{side}"
    command = [str(BIN / "gesso-export"), "engines", str(bundle), "--gpu", "auto", "--device", str(device)]
    return timed(lambda: subprocess.run([*command, "--profile", profile], check=True))


def gpu_name(ordinal: int) -> str:
    return Device(ordinal, cuda_runtime()).name
