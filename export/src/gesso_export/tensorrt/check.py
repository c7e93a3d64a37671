"""An engine against ONNX Runtime on the same GPU, at the least, tuned and largest shape of every profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gesso_export.errors import BuildError
from gesso_export.precision import PRECISIONS
from gesso_export.proof.reference import Arrays, Case
from gesso_export.tensorrt.spec import Spec

# Of a network that is quantised for the engine: the root mean square of the error, in standard deviations of the
# expected output; chosen, not measured. Of any other the largest error is what the graph's precision allows.
MEAN = {"fp8": 0.10, "int8": 0.15}

Run = Callable[[Arrays], Arrays]


def inputs_like(cases: list[Case], shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Inputs of any shape, drawn from the values of the bundle's reference: token ids, timesteps and all."""
    drawn: Arrays = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        values = np.concatenate([case.inputs[name].ravel() for case in cases])
        drawn[name] = np.random.default_rng(number).choice(values, shape)
    return drawn


def compare(spec: Spec, cases: list[Case], engine: Callable[[int], Run], expected: Run) -> dict[str, Any]:
    """What is published of the check. engine: the engine under a profile, by index. expected: ONNX Runtime.

    Raises BuildError for an output of another shape, or too far off.
    """
    worst, looked_at = 0.0, []
    rows_independent = True
    for index, profile in enumerate(spec.profiles):
        run = engine(index)
        for which in ("min", "opt", "max"):
            shapes = {name: getattr(sizes, which) for name, sizes in profile.shapes.items()}
            if shapes in looked_at:
                continue
            looked_at.append(shapes)
            inputs = inputs_like(cases, shapes)
            worst = max(worst, _error(spec, run(inputs), expected(inputs), f"{profile.name} {which}"))
        same = {name: np.repeat(array[:1], len(array), axis=0) for name, array in inputs.items()}
        rows_independent &= all((array == array[:1]).all() for array in run(same).values())
    return {
        "against": "ONNX Runtime, CUDAExecutionProvider",
        "shapes": len(looked_at),
        "largest_error": worst,
        "rows_independent_of_their_place": bool(rows_independent),
    }


def _error(spec: Spec, found: Arrays, expected: Arrays, where: str) -> float:
    worst = 0.0
    for name, wanted in expected.items():
        if name not in found or found[name].shape != wanted.shape:
            shape = found[name].shape if name in found else "missing"
            raise BuildError(f"{spec.network}, {where}: {name} is {shape}, not {wanted.shape}")
        off = np.abs(found[name].astype(np.float64) - wanted) / wanted.std()
        value, bound = (
            (float(off.max()), PRECISIONS[spec.precision].tolerance)
            if spec.quantize is None
            else (float(np.sqrt((off**2).mean())), MEAN[spec.quantize])
        )
        if not value <= bound:  # NaN is not below any bound
            raise BuildError(f"{spec.network}, {where}: {name} is off by {value:.1e} standard deviations; "
                             f"{bound:.0e} is allowed")  # fmt: skip
        worst = max(worst, value)
    return worst


def onnx_runtime(onnx: Path, device: int, onnxruntime: Any) -> Run:
    """The graph itself on the same GPU. Raises BuildError when ONNX Runtime is there for the CPU only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    cuda = ("CUDAExecutionProvider", {"device_id": device, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"})
    if cuda[0] not in onnxruntime.get_available_providers():
        raise BuildError("the engine cannot be verified: this onnxruntime has no CUDA; install onnxruntime-gpu")
    session = onnxruntime.InferenceSession(str(onnx), options, providers=[cuda, "CPUExecutionProvider"])
    if cuda[0] not in session.get_providers():
        raise BuildError("the engine cannot be verified: ONNX Runtime cannot use CUDA here; its log says why")
    names = [port.name for port in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def polygraphy_runner(plan: bytes, polygraphy: Any) -> Callable[[int], Run]:
    """The plan under one of its profiles, by Polygraphy's runner."""
    engine = polygraphy.EngineFromBytes(plan)()

    def under(profile: int) -> Run:
        def run(inputs: Arrays) -> Arrays:
            with polygraphy.TrtRunner(engine, optimization_profile=profile, allocation_strategy="profile") as runner:
                return {name: np.array(array) for name, array in runner.infer(dict(inputs)).items()}

        return run

    return under
