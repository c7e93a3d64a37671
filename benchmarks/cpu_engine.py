"""What the CPU can do, and what the UNet gets out of it: the trial behind docs/cpu.md. By hand: half an hour.

    python benchmarks/cpu_engine.py peak                        the machine: multiply-adds in registers, matrix products
    python benchmarks/cpu_engine.py try --variants spinning     one or more variants against the engine as it is served
    python benchmarks/cpu_engine.py batch                       is a row's answer the same in every batch?
    python benchmarks/cpu_engine.py write                       the table of docs/cpu.md

The UNet is Stable Diffusion 1.5's (`make bench` makes its bundle), with two rows, as guidance has them. A variant and
the engine as it is served stand loaded in two processes and take turns, call by call, so that a machine that slows down
slows both; what counts is the median of the ratios. OpenVINO is taken from the environment that benchmarks/peers.py
made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import turns

ROOT = Path(__file__).parent.parent
UNET = ROOT / "bundles" / "bench-sd15" / "unet.onnx"
RESULTS = ROOT / "benchmarks" / "results" / "cpu-engine.json"
PAGE = ROOT / "docs" / "cpu.md"
MARK = "<!-- measured by benchmarks/cpu_engine.py -->"
OPENVINO = ROOT / ".venv-peers" / "openvino" / "bin" / "python"
THREADS = len(os.sched_getaffinity(0))
REPEATS = {32: 9, 64: 3}  # by latent size: 256 and 512 px
TOKENS = 77
Call = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Variant:
    """A way to run the UNet; `level` and `config` are ONNX Runtime's session options."""

    title: str
    graph: str = UNET.name
    level: str = "ORT_ENABLE_ALL"
    arena: bool = True
    pattern: bool = True
    config: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    openvino: bool = False


SERVED = Variant("as it is served")
VARIANTS = {
    "served": SERVED,
    "spinning": Variant("threads spin while they wait", config={"session.intra_op.allow_spinning": "1"}),
    "spinning-in-calls": Variant(
        "threads spin while they wait within a call",
        config={"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"},
    ),
    "small-blocks": Variant("work cut into ever smaller blocks", config={"session.dynamic_block_base": "4"}),
    "basic": Variant("basic graph optimisations only", level="ORT_ENABLE_BASIC"),
    "extended": Variant("extended optimisations: no blocked (NCHWc) layout", level="ORT_ENABLE_EXTENDED"),
    "no-arena": Variant("no memory arena", arena=False),
    "no-pattern": Variant("no memory pattern", pattern=False),
    "denormals": Variant("denormals are zero", config={"session.set_denormal_as_zero": "1"}),
    "huge-pages": Variant("huge pages (glibc.malloc.hugetlb=1)",
                          environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    "attention": Variant("attention as one operator (MultiHeadAttention)", graph="unet.cpu.onnx"),
    "openvino": Variant("OpenVINO, same file, fp32", openvino=True),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("peak", "write", "batch"):
        commands.add_parser(name)
    trying = commands.add_parser("try")
    trying.add_argument("--variants", nargs="+", default=[name for name in VARIANTS if name != "served"])
    trying.add_argument("--latents", nargs="+", type=int, default=list(REPEATS))
    commands.add_parser("worker").add_argument("variant")  # this script's own use
    options = parser.parse_args()
    if options.command == "worker":
        work(VARIANTS[options.variant])
    elif options.command == "peak":
        save("peak", peak())
        save("operations", {side: operations(side) for side in REPEATS})
    elif options.command == "batch":
        save("batch", {name: batch(name) for name in ("served", "attention", "openvino")})
    elif options.command == "write":
        write()
    else:
        for name in options.variants:
            save(name, compare(name, options.latents))
    return 0


def save(key: str, value: Any) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    old = results.get(key)
    results[key] = {**old, **value} if isinstance(old, dict) else value
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({key: value}), flush=True)


def peak() -> dict[str, float]:
    """GFLOP/s in float32 of all cores at once: multiply-adds on registers alone, and the best of numpy's products."""
    compiler = shutil.which("cc")
    assert compiler, "the peak is measured by a C program, and there is no cc"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(THREADS) as pool:
        program = f"{folder}/fma_peak"
        source = str(Path(__file__).with_name("fma_peak.c"))
        subprocess.run([compiler, "-O3", "-march=native", "-ffp-contract=fast", source, "-o", program], check=True)
        runs = pool.map(lambda _: subprocess.check_output([program, "3"], text=True), range(THREADS))
        registers = sum(float(run.split()[0]) for run in runs)
    return {"registers": round(registers, 1), "sgemm": round(sgemm(), 1)}


def sgemm(size: int = 2048) -> float:
    """GFLOP/s of ONNX Runtime's matrix product."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(onnx.ModelProto.SerializeToString(model), providers=["CPUExecutionProvider"])
    a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        session.run(None, {"a": a, "b": a})
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9


def operations(side: int) -> dict[str, float]:
    """GFLOP of one call by operator, counted at the shapes that ONNX Runtime saw when it ran the graph as written."""
    import onnx
    import onnxruntime

    graph = onnx.load(UNET, load_external_data=False).graph
    weights = {weight.name: list(weight.dims) for weight in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(UNET, options, providers=["CPUExecutionProvider"])
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


def compare(name: str, sides: list[int]) -> dict[str, Any]:
    """Seconds per call of both, taking turns, and how much faster the variant is, by latent size."""
    found: dict[str, Any] = {"title": VARIANTS[name].title}
    with worker("served") as served, worker(name) as tried:
        for side in sides:
            times: list[tuple[float, float]] = []
            for _ in range(REPEATS[side] + 1):  # the first warms both up
                ours, theirs = served(side), tried(side)
                times.append((ours["seconds"], theirs["seconds"]))
                difference = np.abs(np.load(ours["answer"]) - np.load(theirs["answer"])).max()
            pairs = times[1:]
            found[str(side)] = {
                "served": statistics.median(pair[0] for pair in pairs),
                "variant": statistics.median(pair[1] for pair in pairs),
                "faster": statistics.median(pair[0] / pair[1] for pair in pairs),
                "calls": len(pairs),
                "difference": float(difference),
            }
    return found


def batch(name: str) -> dict[str, float]:
    """Largest difference of a row alone from the same row in batches of 2 to 4, at latents of 32."""
    found = {}
    with worker(name) as call:
        alone = [np.load(call(32, rows=[row])["answer"])[0] for row in range(4)]
        for count in (2, 3, 4):
            together = np.load(call(32, rows=list(range(count)))["answer"])
            found[str(count)] = max(float(np.abs(together[row] - alone[row]).max()) for row in range(count))
    return found


@contextmanager
def worker(name: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """A process with the variant loaded; call it with a latent size and, if not two, the rows."""
    python = str(OPENVINO) if VARIANTS[name].openvino else sys.executable
    with turns.side([python, __file__, "worker", name], VARIANTS[name].environment) as ask:

        def call(side: int, rows: list[int] | None = None) -> dict[str, Any]:
            answer: dict[str, Any] = ask({"side": side, "rows": rows or [0, 1]})
            return answer

        yield call


def work(variant: Variant) -> None:
    """Answer each line of standard input: run the UNet once."""
    call = openvino(variant) if variant.openvino else onnxruntime_call(variant)
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            asked = json.loads(line)
            arrays = inputs(asked["side"], asked["rows"])
            started = time.perf_counter()
            answer = call(arrays)
            seconds = time.perf_counter() - started
            np.save(f"{folder}/answer.npy", answer)
            turns.answer({"seconds": seconds, "answer": f"{folder}/answer.npy"})


def onnxruntime_call(variant: Variant) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, variant.level)
    options.enable_cpu_mem_arena, options.enable_mem_pattern = variant.arena, variant.pattern
    for key, value in {"session.intra_op.allow_spinning": "0", **variant.config}.items():
        options.add_session_config_entry(key, value)
    path = UNET.with_name(variant.graph)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)[0]


def openvino(variant: Variant) -> Call:
    import openvino

    fixed = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    request = openvino.Core().compile_model(UNET.with_name(variant.graph), "CPU", fixed).create_infer_request()

    def call(arrays: dict[str, np.ndarray]) -> np.ndarray:
        request.infer(arrays, share_inputs=True)
        answer: np.ndarray = request.get_output_tensor(0).data.copy()
        return answer

    return call


def inputs(side: int, rows: list[int] | None = None) -> dict[str, np.ndarray]:
    """The same row for the same number, whatever else is in the batch."""
    drawn = []
    for row in rows or [0, 1]:
        rng = np.random.default_rng(row)
        drawn.append((rng.standard_normal((9, side, side)), 100 + 200 * row, rng.standard_normal((TOKENS, 768))))
    sample, timestep, hidden = (np.stack(each).astype(np.float32) for each in zip(*drawn, strict=True))
    return {"sample": sample, "timestep": timestep, "encoder_hidden_states": hidden}


def write() -> None:
    """Put the table into docs/cpu.md."""
    from bench import put  # here: the workers, in environments of their own, have none of what it imports

    results = json.loads(RESULTS.read_text())
    pixels = {side: f"{8 * side} px" for side in REPEATS}
    lines = [
        "| variant | " + " | ".join(f"served, {p} | variant | faster by" for p in pixels.values()) + " |",
        "|---" * (3 * len(pixels) + 1) + "|",
    ]
    for name in VARIANTS:
        if name not in results:
            continue
        cells = []
        for side in REPEATS:
            run = results[name].get(str(side))
            cells += (
                [f"{run['served']:.3f} s", f"{run['variant']:.3f} s", f"{run['faster']:.2f}x"] if run else ["", "", ""]
            )
        lines.append(f"| {results[name]['title']} | " + " | ".join(cells) + " |")
    put(PAGE, MARK, "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
