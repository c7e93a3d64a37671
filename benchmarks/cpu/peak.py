"""What the machine can do in float32."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from benchmarks.harness.alternate import timed
from benchmarks.harness.machine import threads


def peak() -> dict[str, float]:
    """GFLOP/s in float32 of all cores at once: multiply-adds on registers alone, and the best of numpy's products."""
    compiler = shutil.which("cc")
    assert compiler, "the peak is measured by a C program, and there is no cc"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads()) as pool:
        program = f"{folder}/fma_peak"
        source = str(Path(__file__).with_name("fma_peak.c"))
        subprocess.run([compiler, "-O3", "-march=native", "-ffp-contract=fast", source, "-o", program], check=True)
        runs = pool.map(lambda _: subprocess.check_output([program, "3"], text=True), range(threads()))
        registers = sum(float(run.split()[0]) for run in runs)
    return {"registers": round(registers, 1), "sgemm": round(sgemm(), 1)}


def sgemm(size: int = 2048) -> float:
    """GFLOP/s of ONNX Runtime's matrix product."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(onnx.ModelProto.SerializeToString(model), providers=["CPUExecutionProvider"])
    a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    return 2 * size**3 / min(timed(lambda: session.run(None, {"a": a, "b": a})) for _ in range(12)) / 1e9
