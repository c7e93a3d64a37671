"""Each network as a Triton model of its own, called by BLS.

For what only Triton can do: perf_analyzer on one network, instances of the denoiser on several GPUs, Triton's own
TensorRT and ONNX Runtime backends. A call costs more than in process (docs/engines.md), so this is not the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import CallModel, Engine, EngineError, EngineSet, Outputs
from gesso_backend.engines.padding import PaddedEngine, filled, sizes_for
from gesso_backend.model.bundle import Bundle
from gesso_backend.settings import Settings


def network_model_name(model: str, network: str) -> str:
    """The Triton model of one network of the model `model`."""
    return f"{model}_{network}"


class TritonEngine:
    """One network. Also the `FixedBatchEngine` contract, for backends that run on a GPU."""

    def __init__(self, network: str, outputs: Sequence[str], call: CallModel) -> None:
        self._network = network
        self._outputs = outputs
        self._call = call

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> Outputs:
        return self._call(self._network, inputs, self._outputs)

    def run(self, inputs: Arrays, size: int) -> Outputs:
        padded = {name: filled(array, size) for name, array in inputs.items()}
        return self._call(self._network, padded, self._outputs)

    def most_rows(self, inputs: Arrays) -> int | None:
        return None


def load(settings: Settings, folder: Path, bundle: Bundle, call: CallModel | None = None) -> EngineSet:
    """Raises EngineError outside Triton."""
    if call is None:
        raise EngineError("engine: triton is there only inside Triton; see gesso-serve --engine triton")
    engines: dict[str, Engine] = {}
    for network, spec in bundle.networks.items():
        engine = TritonEngine(network, tuple(spec.outputs), call)
        if settings.network_backend == "python":
            engines[network] = engine  # the shim runs an engine of this folder, which pads where it has to
        else:
            sizes = sizes_for(spec, settings)
            engines[network] = PaddedEngine(network, engine, sizes)
    return EngineSet.alike(engines, f"triton ({settings.network_backend})")
