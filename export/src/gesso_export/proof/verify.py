"""Holding a bundle against its manifest: the bytes of every file, and the answers of every network.

Export runs the same checks before it publishes a bundle, so `gesso-export verify` repeats them rather than resembles
them. Values are those of ONNX Runtime on the CPU; how far off they may be depends on the precision, and is an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gesso_export.bundle.files import check_file
from gesso_export.bundle.manifest import Bundle, NetworkSpec, read
from gesso_export.bundle.tensor import TensorSpec
from gesso_export.errors import VerificationError, first_line
from gesso_export.progress import Progress
from gesso_export.proof import reference
from gesso_export.proof.reference import Case

_ONNX_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def verify(folder: Path, tolerances: Mapping[str, float], progress: Progress) -> Bundle:
    """Check the whole bundle in `folder`. Raises VerificationError naming the first thing that is wrong.

    tolerances: by precision; see `check_network`.
    """
    bundle = read(folder)
    with progress.stage("files", "hash"):
        for name, expected in bundle.files.items():
            check_file(folder, name, expected)
    cases = reference.load(folder / reference.FILE)
    for name, network in bundle.networks.items():
        if name not in cases:
            raise VerificationError(f"{reference.FILE} has nothing on {name}")
        if network.precision not in tolerances:
            raise VerificationError(f"{name} is in {network.precision}; known are {', '.join(tolerances)}")
        with progress.stage(name, "verify") as stage:
            second = network.cpu_file in bundle.files
            error = check_graphs(folder, name, network, cases[name], tolerances[network.precision], second=second)
            stage.note(f"largest error {error:.1e}")
    return bundle


def check_graphs(
    folder: Path, name: str, spec: NetworkSpec, cases: list[Case], tolerance: float, *, second: bool
) -> float:
    """`check_network` of a network's graph and, where it has one, of its second graph; returns the larger error."""
    files = [spec.file, spec.cpu_file] if second else [spec.file]
    return max(check_network(folder, name, dataclasses.replace(spec, file=file), cases, tolerance) for file in files)


def answered(path: Path, case: Case) -> Case:
    """The case with what the network in `path` answers now."""
    names = list(case.outputs)
    return Case(case.inputs, dict(zip(names, session(path).run(names, case.inputs), strict=True)))


def check_network(folder: Path, name: str, spec: NetworkSpec, cases: list[Case], tolerance: float) -> float:
    """Run a network on its reference inputs and return the largest error, in standard deviations of the output.

    tolerance: the largest error allowed, in the same unit. Raises VerificationError when a name, type, axis or value is
    not the promised one.
    """
    opened = session(folder / spec.file)
    _check_ports(f"{name} inputs", opened.get_inputs(), spec.inputs)
    _check_ports(f"{name} outputs", opened.get_outputs(), spec.outputs)
    worst = 0.0
    for case in cases:
        try:
            answers = opened.run(list(case.outputs), case.inputs)
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise VerificationError(f"{name} cannot be run: {first_line(error)}") from error
        for port, expected, answer in zip(case.outputs, case.outputs.values(), answers, strict=True):
            shapes = {key: value.shape for key, value in case.inputs.items()}
            if answer.shape != expected.shape:
                raise VerificationError(f"{name}: {port} is {answer.shape}, not {expected.shape}, for {shapes}")
            off = float(np.abs(answer - expected).max() / expected.std())
            if not off <= tolerance:  # NaN is not below any tolerance
                raise VerificationError(
                    f"{name}: {port} is off by {off:.1e} standard deviations for {shapes}; "
                    f"{tolerance:.0e} is allowed in {spec.precision}"
                )
            worst = max(worst, off)
    return worst


def session(path: Path) -> onnxruntime.InferenceSession:
    """A network to be run once or twice. Raises VerificationError when it cannot be loaded."""
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
