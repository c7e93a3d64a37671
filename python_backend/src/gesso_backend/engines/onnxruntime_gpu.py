"""ONNX Runtime on a GPU: its CUDA and TensorRT providers, by IO binding.

What makes a row's bytes independent of its batch: batches of fixed sizes (padding.py), convolution algorithms chosen by
rule and not by a stopwatch, deterministic kernels, and no TF32 in float32 networks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import CallModel, Engine, EngineError, EngineSet, Outputs
from gesso_backend.engines.padding import PaddedEngine, filled, sizes_for
from gesso_backend.model.bundle import Bundle
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
MOST_SHAPES = 32  # input buffers kept on the device
CONTEXTS = "engines"  # folder of a bundle in which the TensorRT provider keeps what it built
SMALLEST_SIDE = 64  # pixels; the least that the TensorRT provider's engines are built for


class IoBindingEngine:
    """One ONNX file in a session whose inputs lie on the device. `run` is the `FixedBatchEngine` contract."""

    def __init__(
        self,
        path: Path,
        providers: Sequence[tuple[str, dict[str, Any]]],
        device: tuple[str, int],
        config: dict[str, str] | None = None,
    ) -> None:
        """providers: names of ONNX Runtime's and their options, best first. device: where inputs and outputs lie, as
        ONNX Runtime calls it, and its number. config: further session options.

        Raises EngineError when the session cannot be made, or not with the first provider: ONNX Runtime itself would
        go on with the CPU's and say so in its log only.
        """
        self._device = device
        options = onnxruntime.SessionOptions()
        options.use_deterministic_compute = True
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        wanted = providers[0][0]
        if wanted not in onnxruntime.get_available_providers():
            raise EngineError(f"{path.name}: this onnxruntime has no {wanted}; pip install 'gesso-backend[cuda]'")
        if wanted != NAMES["cpu"] and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA and cuDNN where they are Python packages
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EngineError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error
        if wanted not in self._session.get_providers():
            raise EngineError(f"{path.name}: ONNX Runtime cannot use {wanted} here; its log says why")
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = [port.name for port in self._session.get_inputs()]
        self._values: dict[tuple[object, ...], dict[str, Any]] = {}

    def most_rows(self, inputs: Arrays) -> int | None:
        return None

    def run(self, inputs: Arrays, size: int) -> Outputs:
        arrays = {name: np.ascontiguousarray(filled(inputs[name], size)) for name in self._inputs}
        key = tuple(array.shape for array in arrays.values())
        values = self._values.pop(key, None)
        if values is None:
            if len(self._values) >= MOST_SHAPES:
                self._values.pop(next(iter(self._values)))
            values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a, *self._device) for n, a in arrays.items()}
        else:
            for name, array in arrays.items():
                values[name].update_inplace(array)
        self._values[key] = values  # last used, last in the line
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, *self._device)
        self._session.run_with_iobinding(binding)
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))


def load(settings: Settings, folder: Path, bundle: Bundle, call: CallModel | None = None) -> EngineSet:
    """An engine for every network, with the providers that the settings name."""
    providers = settings.provider_names
    engines = {name: load_engine(settings, folder, bundle, name, providers) for name in bundle.networks}
    return EngineSet.alike(engines, f"onnxruntime ({', '.join(providers)})")


def load_engine(settings: Settings, folder: Path, bundle: Bundle, network: str, providers: Sequence[str]) -> Engine:
    """One network on a GPU. Raises EngineError."""
    path, config = folder / bundle.networks[network].file, dict[str, str]()
    if providers[0] == "tensorrt":
        path, config = _context(settings, folder, bundle, network)
    options = [(NAMES[name], _options(name, settings, bundle, network)) for name in providers]
    if providers[-1] != "cpu":
        options.append((NAMES["cpu"], {}))  # ONNX Runtime works out shapes there
    engine = IoBindingEngine(path, options, ("cuda", settings.device), config)
    return PaddedEngine(network, engine, sizes_for(bundle.networks[network], settings))


def _options(provider: str, settings: Settings, bundle: Bundle, network: str) -> dict[str, Any]:
    if provider == "cuda":
        return {
            "device_id": settings.device,
            "cudnn_conv_algo_search": "HEURISTIC",  # the default measures, and may choose otherwise next time
            "use_tf32": 0,
            "arena_extend_strategy": "kSameAsRequested",
        }
    if provider == "tensorrt":
        low, best, high = _shapes(settings, bundle, network)
        return {
            "device_id": settings.device,
            "trt_fp16_enable": bundle.networks[network].precision == "fp16",
            "trt_builder_optimization_level": 3,
            "trt_profile_min_shapes": low,
            "trt_profile_opt_shapes": best,
            "trt_profile_max_shapes": high,
        }
    return {}


def _context(settings: Settings, folder: Path, bundle: Bundle, network: str) -> tuple[Path, dict[str, str]]:
    """(the model to open, session options): what was built at an earlier start, else the network itself, to be built
    and stored. ONNX Runtime's EP context is made of the network's hash, its own version, the device and the shapes."""
    spec = bundle.networks[network]
    parts = [bundle.files[spec.file].sha256, onnxruntime.__version__, *_shapes(settings, bundle, network)]
    digest = hashlib.sha256("\n".join([*parts, _gpu(settings.device)]).encode()).hexdigest()[:16]
    built = folder / CONTEXTS / f"{digest}-onnxruntime{onnxruntime.__version__}" / f"{network}_ctx.onnx"
    if built.is_file():
        return built, {}
    try:
        built.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("%s: what TensorRT builds cannot be stored in the bundle (%s)", network, error)
        return folder / spec.file, {}
    store = {"ep.context_enable": "1", "ep.context_embed_mode": "0", "ep.context_file_path": str(built)}
    return folder / spec.file, store


def _gpu(ordinal: int) -> str:
    """The name of the GPU when cuda-python is there to tell it."""
    from gesso_backend.engines.tensorrt.device import Device, cuda_runtime

    try:
        return Device(ordinal, cuda_runtime()).name
    except EngineError:
        return f"device {ordinal}"


def _shapes(settings: Settings, bundle: Bundle, network: str) -> tuple[str, str, str]:
    """(least, best, largest) of the TensorRT provider's one profile, as it writes them: `sample:1x9x64x64,...`."""
    spec = bundle.networks[network]
    side = int(bundle.size.max_pixels**0.5) // bundle.size.multiple * bundle.size.multiple
    sides = (SMALLEST_SIDE, bundle.size.native, max(side, bundle.size.native))
    shortest, longest = bundle.token_lengths
    tokens = (shortest, longest, 8 * longest)
    cap = sizes_for(spec, settings)[-1]
    texts = []
    for which, rows in enumerate((1, cap, cap)):
        axes = bundle.axes(rows, sides[which], tokens[which])
        ports = {name: [axes[a] if isinstance(a, str) else a for a in port.shape] for name, port in spec.inputs.items()}
        texts.append(",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in ports.items()))
    return texts[0], texts[1], texts[2]
