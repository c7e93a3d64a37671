"""TensorRT plans on one GPU: device buffers and a stream by cuda-python, a context and a CUDA graph per shape.

Works with TensorRT 10 and 11 alike. No torch.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import EngineError, NoProfile, Outputs
from gesso_backend.engines.tensorrt.device import Device
from gesso_backend.engines.tensorrt.plan import Plan
from gesso_backend.engines.tensorrt.tensorrt_api import Context, CudaEngine, TensorRT
from gesso_backend.errors import InternalError
from gesso_backend.model.bundle import NetworkSpec

log = logging.getLogger(__name__)

MOST_SHAPES = 32  # contexts, buffers and graphs kept; the one longest unused goes first

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # min, opt, max


@dataclass(eq=False)
class ShapeContext:
    """All that one shape needs: a context of its own, so that its graph is of nothing that another shape changes."""

    context: Context
    addresses: dict[str, int]
    host: dict[str, np.ndarray[Any, Any]]  # pinned, as large as on the device
    graph: Any = None
    sent: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)  # read-only inputs that are there already


class TensorRTEngine:
    """One plan. `run` is the `FixedBatchEngine` contract; PaddedEngine makes it an Engine."""

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
        self._contexts: OrderedDict[tuple[object, ...], ShapeContext] = OrderedDict()

    def most_rows(self, inputs: Arrays) -> int | None:
        fits = [max(self._rows(profile)) for profile in self._profiles if self._fits(profile, inputs, None)]
        if not fits:
            raise self._no_profile(inputs)
        return max(fits)

    def run(self, inputs: Arrays, size: int) -> Outputs:
        """Raises NoProfile for a shape the plan was not built for, InternalError for what fails on the device."""
        self._device.use()
        key = (size, *((name, inputs[name].shape[1:]) for name in self._inputs))
        shape_context = self._contexts.get(key)
        fresh = shape_context is None
        if shape_context is None:
            shape_context = self._bind(inputs, size)
            self._contexts[key] = shape_context
            if len(self._contexts) > MOST_SHAPES:
                self._release(self._contexts.popitem(last=False)[1])
        self._contexts.move_to_end(key)
        try:
            self._send(shape_context, inputs)
            if shape_context.graph is None:
                self._enqueue(shape_context.context)
            else:
                self._device.launch(shape_context.graph)
            for name in self._outputs:
                self._device.to_host(shape_context.host[name], shape_context.addresses[name])
            self._device.wait()
            outputs = {name: shape_context.host[name].copy() for name in self._outputs}
            if fresh and self._graphs:  # TensorRT wants one plain run of a shape before it is captured
                shape_context.graph = self._captured(shape_context)
        except BaseException:
            self._contexts.pop(key, None)  # what is on the device now is not known
            with contextlib.suppress(InternalError):  # the first error is the one to tell of
                self._release(shape_context)
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

    def _bind(self, inputs: Arrays, size: int) -> ShapeContext:
        index = self._choose(inputs, size)
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise InternalError(f"{self._network}: TensorRT cannot create an execution context; its log says why")
        shape_context = ShapeContext(context, {}, {})
        context.set_device_memory(self._scratch, self._engine.device_memory_size_v2)
        self._check(context.set_optimization_profile_async(index, int(self._device.stream)), f"profile {index}")
        self._device.wait()
        try:
            for name, dtype in self._inputs.items():
                shape = (size, *inputs[name].shape[1:])
                self._check(context.set_input_shape(name, shape), f"{name} {shape}")
                self._place(shape_context, name, shape, dtype)
            missing = context.infer_shapes()
            self._check(not missing, f"inputs {missing} leave shapes open")
            for name, dtype in self._outputs.items():
                self._place(shape_context, name, tuple(int(axis) for axis in context.get_tensor_shape(name)), dtype)
        except BaseException:
            self._release(shape_context)
            raise
        return shape_context

    def _place(self, shape_context: ShapeContext, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._check(min(shape) > 0, f"{name} has shape {shape}")
        shape_context.host[name] = self._device.pinned(shape, dtype)
        shape_context.addresses[name] = self._device.allocate(shape_context.host[name].nbytes)
        self._check(shape_context.context.set_tensor_address(name, shape_context.addresses[name]), f"{name}'s address")

    def _send(self, shape_context: ShapeContext, inputs: Arrays) -> None:
        """Copy what is not there yet. An array that nobody may write to and that was sent last is there."""
        for name in self._inputs:
            array, host = inputs[name], shape_context.host[name]
            if array is shape_context.sent.get(name):
                continue
            host[: len(array)] = array
            host[len(array) :] = array[0]
            self._device.to_device(shape_context.addresses[name], host)
            shape_context.sent.pop(name, None)
            if not array.flags.writeable:
                shape_context.sent[name] = array

    def _enqueue(self, context: Context) -> None:
        self._check(context.execute_async_v3(int(self._device.stream)), "enqueue")

    def _captured(self, shape_context: ShapeContext) -> Any:
        try:
            return self._device.capture(lambda: self._enqueue(shape_context.context))
        except InternalError as error:
            log.warning("%s: no CUDA graph of this shape (%s); it runs without", self._network, error.text)
            return None

    def _release(self, shape_context: ShapeContext) -> None:
        if shape_context.graph is not None:
            self._device.free_graph(shape_context.graph)
        for address in shape_context.addresses.values():
            self._device.free(address)
        for array in shape_context.host.values():
            self._device.free_pinned(array)

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise InternalError(f"{self._network}: TensorRT refused: {what}; its log says why")


def _range(found: Any) -> Range:
    low, opt, high = (tuple(int(axis) for axis in shape) for shape in found)
    return low, opt, high
