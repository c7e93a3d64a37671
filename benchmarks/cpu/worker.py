"""One variant, loaded: `python -m benchmarks.cpu.worker BUNDLE VARIANT`. OpenVINO's runs in its own environment."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu.inputs import Arrays, inputs
from benchmarks.cpu.variant import VARIANTS, Variant
from benchmarks.harness.alternate import timed
from benchmarks.harness.machine import threads
from benchmarks.harness.side import answer

Call = Callable[[Arrays], np.ndarray]


def main() -> None:
    """Answer each line of standard input: run the UNet once."""
    folder, name = sys.argv[1:]
    variant = VARIANTS[name]
    call = (openvino if variant.openvino else onnxruntime_call)(Path(folder), variant)
    with tempfile.TemporaryDirectory() as scratch:

        def one(question: dict[str, Any]) -> dict[str, Any]:
            arrays, outputs = inputs(question["size"], question["rows"]), list[np.ndarray]()
            seconds = timed(lambda: outputs.append(call(arrays)))
            np.save(f"{scratch}/answer.npy", outputs[0])
            return {"seconds": seconds, "answer": f"{scratch}/answer.npy"}

        answer(one)


def onnxruntime_call(folder: Path, variant: Variant) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, variant.level)
    options.enable_cpu_mem_arena, options.enable_mem_pattern = variant.arena, variant.pattern
    for key, value in {"session.intra_op.allow_spinning": "0", **variant.config}.items():
        options.add_session_config_entry(key, value)
    path = folder / variant.graph
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)[0]


def openvino(folder: Path, variant: Variant) -> Call:
    import openvino

    fixed = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}
    request = openvino.Core().compile_model(folder / variant.graph, "CPU", fixed).create_infer_request()

    def call(arrays: Arrays) -> np.ndarray:
        request.infer(arrays, share_inputs=True)
        answer: np.ndarray = request.get_output_tensor(0).data.copy()
        return answer

    return call


if __name__ == "__main__":
    main()
