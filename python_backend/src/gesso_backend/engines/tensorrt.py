"""TensorRT plans on one GPU: device buffers and a stream by cuda-python, a context and a CUDA graph per shape.

Works with TensorRT 10 and 11 alike. No torch.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gesso_backend.bundle import Bundle, NetworkSpec
from gesso_backend.calls import Arrays
from gesso_backend.engines import Engine, EngineError, EngineSet, NoProfile, Outputs
from gesso_backend.engines.device import Device, cuda_runtime
from gesso_backend.engines.fallback import FallbackEngine
from gesso_backend.engines.padding import PaddedEngine, sizes_for
from gesso_backend.engines.plan import Machine, Plan, find
from gesso_backend.engines.tensorrt_api import Context, CudaEngine, TensorRT
from gesso_backend.errors import InternalError
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

MOST_SHAPES = 32  # contexts, buffers and graphs kept; the one longest unused goes first

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # min, opt, max


@dataclass(eq=False)
class Bound:
    """All that one shape needs: a context of its own, so that its graph is of nothing that another shape changes."""

    context: Context
    addresses: dict[str, int]
    host: dict[str, np.ndarray[Any, Any]]  # pinned, as large as on the device
    graph: Any = None
    sent: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)  # read-only inputs that are there already


class TensorRTEngine:
    """One plan. `run` is the `Sized` contract; PaddedEngine makes it an Engine."""

    def __init__(
        self, plan: Plan, spec: NetworkSpec, device: Device, trt: TensorRT, weights_mib: int = 0, graphs: bool = True
    ) -> None:
        """weights_mib: device memory for the weights of an engine that streams them; 0: TensorRT decides.

        Raises EngineError for a plan that TensorRT refuses or that is not of this network.
        """
        self._network, self._device, self._trt, self._graphs = plan.network, device, trt, graphs
        device.use()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))  # outlives its engines
        engine = self._runtime.deserialize_cuda_engine(plan.read())
        if engine is None:
            raise EngineError(f"{plan.path.name}: TensorRT cannot deserialise it; its log says why")
        self._engine: CudaEngine = engine
        if engine.streamable_weights_size:
            # Before the first context: they are sized by it.
            engine.weight_streaming_budget_v2 = (
                min(weights_mib * 2**20, engine.streamable_weights_size)
                if weights_mib
                else engine.get_weight_streaming_automatic_budget()
            )
        self._inputs, self._outputs = self._ports(spec)
        self._profiles: list[dict[str, Range]] = []
        for index in range(engine.num_optimization_profiles):
            shapes = {name: engine.get_tensor_profile_shape(name, index) for name in self._inputs}
            self._profiles.append({name: _range(found) for name, found in shapes.items()})
        # All shapes take turns on one stream, so they share the memory for what lies between inputs and outputs.
        self._scratch = device.allocate(engine.device_memory_size_v2)
        self._bound: OrderedDict[tuple[object, ...], Bound] = OrderedDict()

    def most_rows(self, inputs: Arrays) -> int | None:
        fits = [max(self._rows(profile)) for profile in self._profiles if self._fits(profile, inputs, None)]
        if not fits:
            raise self._no_profile(inputs)
        return max(fits)

    def run(self, inputs: Arrays, size: int) -> Outputs:
        """Raises NoProfile for a shape the plan was not built for, InternalError for what fails on the device."""
        self._device.use()
        key = (size, *((name, inputs[name].shape[1:]) for name in self._inputs))
        bound = self._bound.get(key)
        fresh = bound is None
        if bound is None:
            bound = self._bind(inputs, size)
            self._bound[key] = bound
            if len(self._bound) > MOST_SHAPES:
                self._release(self._bound.popitem(last=False)[1])
        self._bound.move_to_end(key)
        try:
            self._send(bound, inputs)
            if bound.graph is None:
                self._enqueue(bound.context)
            else:
                self._device.launch(bound.graph)
            for name in self._outputs:
                self._device.to_host(bound.host[name], bound.addresses[name])
            self._device.wait()
            outputs = {name: bound.host[name].copy() for name in self._outputs}
            if fresh and self._graphs:  # TensorRT wants one plain run of a shape before it is captured
                bound.graph = self._captured(bound)
        except BaseException:
            self._bound.pop(key, None)  # what is on the device now is not known
            with contextlib.suppress(InternalError):  # the first error is the one to tell of
                self._release(bound)
            raise
        return outputs

    def _ports(self, spec: NetworkSpec) -> tuple[dict[str, np.dtype[Any]], dict[str, np.dtype[Any]]]:
        """(inputs, outputs): name -> dtype. Raises EngineError when they are not those of the bundle's network."""
        found: dict[bool, dict[str, np.dtype[Any]]] = {True: {}, False: {}}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            found[is_input][name] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        for what, ports, wanted in (("inputs", found[True], spec.inputs), ("outputs", found[False], spec.outputs)):
            expected = {name: np.dtype(port.dtype) for name, port in wanted.items()}
            if ports != expected:
                raise EngineError(f"{self._network}: the engine's {what} are {ports}, the bundle's {expected}")
        return found[True], found[False]

    @staticmethod
    def _rows(profile: Mapping[str, Range]) -> range:
        low, _, high = next(iter(profile.values()))
        return range(low[0], high[0] + 1)

    @staticmethod
    def _fits(profile: Mapping[str, Range], inputs: Arrays, size: int | None) -> bool:
        """Whether a profile covers these inputs at this batch size, or at any."""
        for name, (low, _, high) in profile.items():
            wanted = inputs[name].shape[1:]
            if len(wanted) != len(low) - 1 or (size is not None and not low[0] <= size <= high[0]):
                return False
            if any(not a <= n <= b for a, n, b in zip(low[1:], wanted, high[1:], strict=True)):
                return False
        return True

    def _choose(self, inputs: Arrays, size: int) -> int:
        """The profile that covers the shape and reaches least beyond it: the one that was tuned nearest to it."""
        fitting = [index for index, profile in enumerate(self._profiles) if self._fits(profile, inputs, size)]
        if not fitting:
            raise self._no_profile(inputs, size)
        return min(fitting, key=lambda index: sum(int(np.prod(high)) for _, _, high in self._profiles[index].values()))

    def _no_profile(self, inputs: Arrays, size: int | None = None) -> NoProfile:
        shapes = {name: (size or len(array), *array.shape[1:]) for name, array in inputs.items()}
        return NoProfile(f"{self._network}: no profile of the TensorRT engine covers {shapes}")

    def _bind(self, inputs: Arrays, size: int) -> Bound:
        index = self._choose(inputs, size)
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise InternalError(f"{self._network}: TensorRT cannot create an execution context; its log says why")
        bound = Bound(context, {}, {})
        context.set_device_memory(self._scratch, self._engine.device_memory_size_v2)
        self._check(context.set_optimization_profile_async(index, int(self._device.stream)), f"profile {index}")
        self._device.wait()
        try:
            for name, dtype in self._inputs.items():
                shape = (size, *inputs[name].shape[1:])
                self._check(context.set_input_shape(name, shape), f"{name} {shape}")
                self._place(bound, name, shape, dtype)
            missing = context.infer_shapes()
            self._check(not missing, f"inputs {missing} leave shapes open")
            for name, dtype in self._outputs.items():
                self._place(bound, name, tuple(int(axis) for axis in context.get_tensor_shape(name)), dtype)
        except BaseException:
            self._release(bound)
            raise
        return bound

    def _place(self, bound: Bound, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._check(min(shape) > 0, f"{name} has shape {shape}")
        bound.host[name] = self._device.pinned(shape, dtype)
        bound.addresses[name] = self._device.allocate(bound.host[name].nbytes)
        self._check(bound.context.set_tensor_address(name, bound.addresses[name]), f"{name}'s address")

    def _send(self, bound: Bound, inputs: Arrays) -> None:
        """Copy what is not there yet. An array that nobody may write to and that was sent last is there."""
        for name in self._inputs:
            array, host = inputs[name], bound.host[name]
            if array is bound.sent.get(name):
                continue
            host[: len(array)] = array
            host[len(array) :] = array[0]
            self._device.to_device(bound.addresses[name], host)
            bound.sent.pop(name, None)
            if not array.flags.writeable:
                bound.sent[name] = array

    def _enqueue(self, context: Context) -> None:
        self._check(context.execute_async_v3(int(self._device.stream)), "enqueue")

    def _captured(self, bound: Bound) -> Any:
        try:
            return self._device.capture(lambda: self._enqueue(bound.context))
        except InternalError as error:
            log.warning("%s: no CUDA graph of this shape (%s); it runs without", self._network, error.text)
            return None

    def _release(self, bound: Bound) -> None:
        if bound.graph is not None:
            self._device.free_graph(bound.graph)
        for address in bound.addresses.values():
            self._device.free(address)
        for array in bound.host.values():
            self._device.free_pinned(array)

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise InternalError(f"{self._network}: TensorRT refused: {what}; its log says why")


def load_engines(
    settings: Settings,
    folder: Path,
    bundle: Bundle,
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
    kinds: dict[str, str] = {}
    warnings: list[str] = []
    try:
        trt = trt or _module()
        device = device or Device(settings.device, cuda_runtime())
    except EngineError as error:
        if not may_fall_back:
            raise _hinted(error) from error
        _warn(warnings, f"TensorRT cannot be used ({error}); ONNX Runtime runs all networks")
        return EngineSet({n: load_other(n) for n in bundle.networks}, "onnxruntime (cuda)", tuple(warnings))
    machine = Machine(device.name, device.compute_capability, trt.__version__)
    for network, spec in bundle.networks.items():
        sizes = sizes_for(network, settings)
        try:
            plan = find(folder, bundle, network, machine)
            sized = TensorRTEngine(plan, spec, device, trt, settings.weight_streaming_mib)
        except EngineError as error:
            if not may_fall_back:
                raise _hinted(error) from error
            _warn(warnings, f"{error}; ONNX Runtime runs it")
            engines[network], kinds[network] = load_other(network), "onnxruntime (cuda)"
            continue
        padded: Engine = PaddedEngine(network, sized, sizes)
        engines[network] = FallbackEngine(network, padded, load_other) if may_fall_back else padded
        kinds[network] = f"tensorrt {trt.__version__}"
        log.info("%s: %s, profiles %s", network, plan.path.parent.name, ", ".join(plan.profiles))
    return EngineSet(engines, kinds, tuple(warnings))


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


def _range(found: Any) -> Range:
    low, opt, high = (tuple(int(axis) for axis in shape) for shape in found)
    return low, opt, high
