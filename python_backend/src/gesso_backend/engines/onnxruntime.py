"""ONNX Runtime, the engine that runs everywhere."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnxruntime

from gesso_backend.engines.engine import CallModel, Engine, EngineSet
from gesso_backend.errors import BundleError
from gesso_backend.model.bundle import Bundle
from gesso_backend.settings import Settings


class OnnxRuntimeEngine:
    """One ONNX file in one inference session on the CPU provider."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """threads: intra-op threads; 0 means one per core this process may use."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        # The networks of a bundle take turns, each with its own pool: a pool that spins after its call steals the
        # cores from the next one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BundleError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))


def load(settings: Settings, folder: Path, bundle: Bundle, call: CallModel | None = None) -> EngineSet:
    """An engine for every network, on the CPU, or with the GPU's providers that the settings name."""
    if settings.providers != "cpu":
        from gesso_backend.engines import onnxruntime_gpu

        return onnxruntime_gpu.load(settings, folder, bundle, call)
    engines: dict[str, Engine] = {
        name: OnnxRuntimeEngine(folder / cpu_graph(spec.file, bundle), settings.threads)
        for name, spec in bundle.networks.items()
    }
    return EngineSet.alike(engines, "onnxruntime (cpu)")


def cpu_graph(file: str, bundle: Bundle) -> str:
    """The graph of the same network and weights that was fused for this engine, where the exporter wrote one."""
    fused = PurePosixPath(file).with_suffix(".cpu.onnx").as_posix()
    return fused if fused in bundle.files else file
