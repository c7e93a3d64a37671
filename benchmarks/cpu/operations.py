"""What one call of the UNet has to compute."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.cpu.inputs import inputs
from benchmarks.cpu.variant import UNET


def operations(bundle: Path, side: int) -> dict[str, float]:
    """GFLOP of one call by operator, counted at the shapes that ONNX Runtime saw when it ran the graph as written."""
    file = bundle / UNET
    graph = onnx.load(file, load_external_data=False).graph
    weights = {weight.name: list(weight.dims) for weight in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        session.run(None, inputs(side))
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        kind, node = event["args"]["op_name"], nodes[event["name"].removesuffix("_kernel_time")]
        shapes = [next(iter(shape.values())) for shape in event["args"]["input_type_shape"]]
        if kind == "Conv":
            weight = weights[node.input[1]]
            sizes = (*event["args"]["output_type_shape"][0]["float"], *weight[1:])
            counted[f"convolution {weight[2]}x{weight[3]}"] += 2 * np.prod(sizes, dtype=float)
        elif kind in ("MatMul", "Gemm"):
            sizes = (*event["args"]["output_type_shape"][0]["float"], shapes[0][-1])
            what = "product with weights" if node.input[1] in weights else "product in attention"
            counted[what] += 2 * np.prod(sizes, dtype=float)
    found = {name: round(count / 1e9, 2) for name, count in counted.items()}
    return {**found, "all": round(sum(counted.values()) / 1e9, 2)}
