"""TensorRT for the networks of a bundle: which plan runs each, and what falls back to ONNX Runtime."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path

from gesso_backend.engines.engine import CallModel, Engine, EngineError, EngineSet
from gesso_backend.engines.fallback import FallbackEngine
from gesso_backend.engines.padding import PaddedEngine, sizes_for
from gesso_backend.engines.tensorrt.device import Device, cuda_runtime
from gesso_backend.engines.tensorrt.engine import TensorRTEngine
from gesso_backend.engines.tensorrt.plan import Machine, find
from gesso_backend.engines.tensorrt.tensorrt_api import TensorRT
from gesso_backend.model.bundle import Bundle
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)


def load(
    settings: Settings,
    folder: Path,
    bundle: Bundle,
    call: CallModel | None = None,
    trt: TensorRT | None = None,
    device: Device | None = None,
    load_other: Callable[[str], Engine] | None = None,
) -> EngineSet:
    """TensorRT for every network that has a plan for this machine; for the others what `engine_fallback` says.

    trt, device, load_other: the module, the GPU, and how a network falls back; given by tests.
    Raises EngineError with the reason when a network cannot be run and may not fall back.
    """
    if load_other is None:
        from gesso_backend.engines import onnxruntime_gpu

        def load_other(network: str) -> Engine:
            return onnxruntime_gpu.load_engine(settings, folder, bundle, network, ("cuda",))

    may_fall_back = settings.engine_fallback == "onnxruntime"
    engines: dict[str, Engine] = {}
    names: dict[str, str] = {}
    warnings: list[str] = []
    try:
        trt = trt or _module()
        device = device or Device(settings.device, cuda_runtime())
    except EngineError as error:
        if not may_fall_back:
            raise _hinted(error) from error
        _warn(warnings, f"TensorRT cannot be used ({error}); ONNX Runtime runs all networks")
        return EngineSet.alike({n: load_other(n) for n in bundle.networks}, "onnxruntime (cuda)", tuple(warnings))
    machine = Machine(device.name, device.compute_capability, trt.__version__)
    for network, spec in bundle.networks.items():
        sizes = sizes_for(spec, settings)
        try:
            plan = find(folder, bundle, network, machine)
            engine = TensorRTEngine(plan, spec, device, trt, settings.weight_streaming_mib)
        except EngineError as error:
            if not may_fall_back:
                raise _hinted(error) from error
            _warn(warnings, f"{error}; ONNX Runtime runs it")
            engines[network], names[network] = load_other(network), "onnxruntime (cuda)"
            continue
        padded: Engine = PaddedEngine(network, engine, sizes)
        engines[network] = FallbackEngine(network, padded, load_other) if may_fall_back else padded
        names[network] = f"tensorrt {trt.__version__}"
        log.info("%s: %s, profiles %s", network, plan.path.parent.name, ", ".join(plan.profiles))
    return EngineSet(engines, names, tuple(warnings))


def _module() -> TensorRT:
    try:
        module: TensorRT = importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(f"TensorRT is not installed ({error}); pip install 'gesso-backend[tensorrt]'") from error
    return module


def _hinted(error: EngineError) -> EngineError:
    return EngineError(f"{error}. With --engine-fallback onnxruntime it runs on ONNX Runtime's CUDA provider")


def _warn(warnings: list[str], text: str) -> None:
    log.warning(text)
    warnings.append(text)
