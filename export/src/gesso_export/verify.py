"""Holding a bundle against its manifest: the bytes of every file, and the answers of every network.

Export runs the same checks before it publishes a bundle, so `gesso-export verify` repeats them rather than resembles
them. Values are those of ONNX Runtime on the CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gesso_export import fused_attention, reference
from gesso_export.errors import VerificationError, first_line
from gesso_export.manifest import Bundle, FileSpec, NetworkSpec, TensorSpec, read
from gesso_export.progress import Progress
from gesso_export.reference import Case

# Largest error allowed, in standard deviations of the expected output. Measured over random checkpoints from the
# tiniest to the full Stable Diffusion 1.5: at most 6e-5 in fp32 and 9e-3 in fp16, both in VAE decoders.
# int8 is judged by a gate of its own when it is made (int8.py) and is held to its own answers of that moment.
TOLERANCE = {"fp32": 3e-4, "fp16": 3e-2, "int8": 1e-1}

_ONNX_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def verify(folder: Path, progress: Progress) -> Bundle:
    """Check the whole bundle in `folder`. Raises VerificationError naming the first thing that is wrong."""
    bundle = read(folder)
    with progress.stage("files", "hash"):
        for name, expected in bundle.files.items():
            check_file(folder, name, expected)
    cases = reference.load(folder / reference.FILE)
    for name, network in bundle.networks.items():
        if name not in cases:
            raise VerificationError(f"{reference.FILE} has nothing on {name}")
        with progress.stage(name, "verify") as stage:
            error = check_network(folder, name, network, cases[name])
            if cpu_graph(network).file in bundle.files:
                error = max(error, check_network(folder, name, cpu_graph(network), cases[name]))
            stage.note(f"largest error {error:.1e}")
    return bundle


def cpu_graph(network: NetworkSpec) -> NetworkSpec:
    """The same network by its second graph, for ONNX Runtime on the CPU; a bundle need not have one."""
    return dataclasses.replace(network, file=fused_attention.path_of(Path(network.file)).as_posix())


def answered(path: Path, case: Case) -> Case:
    """The case with what the network in `path` answers now."""
    names = list(case.outputs)
    return Case(case.inputs, dict(zip(names, _session(path).run(names, case.inputs), strict=True)))


def describe_file(path: Path) -> FileSpec:
    """Hash and size of a file."""
    with path.open("rb") as file:
        return FileSpec(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def check_file(folder: Path, name: str, expected: FileSpec) -> None:
    """Raises VerificationError when the file is missing or is not the one the manifest describes."""
    path = folder / name
    if not path.is_file():
        raise VerificationError(f"{name} is missing")
    if path.stat().st_size != expected.bytes:
        raise VerificationError(f"{name} has {path.stat().st_size} bytes, the manifest says {expected.bytes}")
    if describe_file(path).sha256 != expected.sha256:
        raise VerificationError(f"{name} is damaged: its sha256 is not the manifest's")


def check_network(folder: Path, name: str, spec: NetworkSpec, cases: list[Case]) -> float:
    """Run a network on its reference inputs and return the largest error, in standard deviations of the output.

    Raises VerificationError when a name, type, axis or value is not the promised one.
    """
    session = _session(folder / spec.file)
    _check_ports(f"{name} inputs", session.get_inputs(), spec.inputs)
    _check_ports(f"{name} outputs", session.get_outputs(), spec.outputs)
    worst = 0.0
    for case in cases:
        try:
            answers = session.run(list(case.outputs), case.inputs)
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise VerificationError(f"{name} cannot be run: {first_line(error)}") from error
        for port, expected, answer in zip(case.outputs, case.outputs.values(), answers, strict=True):
            shapes = {key: value.shape for key, value in case.inputs.items()}
            if answer.shape != expected.shape:
                raise VerificationError(f"{name}: {port} is {answer.shape}, not {expected.shape}, for {shapes}")
            off = float(np.abs(answer - expected).max() / expected.std())
            if not off <= TOLERANCE[spec.precision]:  # NaN is not below any tolerance
                raise VerificationError(
                    f"{name}: {port} is off by {off:.1e} standard deviations for {shapes}; "
                    f"{TOLERANCE[spec.precision]:.0e} is allowed in {spec.precision}"
                )
            worst = max(worst, off)
    return worst


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The graph as it is written: nothing is folded, and weights stay in the mapped file instead of being copied.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise VerificationError(f"{path.name} cannot be loaded: {first_line(error)}") from error


def _check_ports(what: str, found: list[Any], expected: dict[str, TensorSpec]) -> None:
    actual = {port.name: TensorSpec(_ONNX_TYPES.get(port.type, port.type), tuple(port.shape)) for port in found}
    if actual != expected:
        raise VerificationError(f"{what} are {actual}, the manifest says {expected}")
