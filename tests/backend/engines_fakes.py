"""A CUDA device and a TensorRT runtime of plain memory: addresses are real, so what is copied to the wrong place shows.

The network they run answers `sample * 2 + timestep` for noise_pred; `flaw` makes a row's answer depend on its place in
the batch, or on the batch's size, as a GPU library may.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from backend.fakes import fake_bundle
from gesso_backend.engines.tensorrt import plan as plans
from gesso_backend.model.bundle import Bundle

GPU, CAPABILITY, TENSORRT = "NVIDIA H100 80GB HBM3", "9.0", "11.4.0.106"
HEADER = struct.pack("<II16x4B", plans.TAG, 0, 11, 4, 0, 106)
# name -> (least, tuned, largest) of sample; the other inputs follow from it.
PROFILES = {"any": ((1, 9, 2, 2), (4, 9, 8, 8), (8, 9, 16, 16)), "native": ((1, 9, 8, 8), (4, 9, 8, 8), (4, 9, 8, 8))}


class FakeCuda:
    """cuda.bindings.runtime, as far as CudaRuntime goes; the stream runs at once, unless it is captured."""

    cudaStreamNonBlocking, cudaHostAllocDefault = 1, 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, name: str = GPU, devices: int = 1, error: int = 0) -> None:
        self.name, self.devices, self.error = name, devices, error
        self.blocks: dict[int, Any] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.launches = self.copies_in = 0
        self.cannot_capture = False

    def enqueue(self, work: Callable[[], None]) -> None:
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (self.error, self.devices)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (0,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        major, minor = CAPABILITY.split(".")
        return (0, SimpleNamespace(name=self.name.encode(), major=int(major), minor=int(minor)))

    def cudaGetErrorString(self, error: Any) -> tuple[Any, ...]:
        return (0, b"CUDA driver version is insufficient for CUDA runtime version")

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return (0, ctypes.addressof(block))

    def cudaFree(self, address: Any) -> tuple[Any, ...]:
        del self.blocks[address]
        return (0,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self.cudaMalloc(size)

    def cudaFreeHost(self, address: Any) -> tuple[Any, ...]:
        return self.cudaFree(address)

    def cudaMemcpyAsync(self, dst: Any, src: Any, count: int, kind: Any, stream: Any) -> tuple[Any, ...]:
        self.copies_in += kind == 1
        ctypes.memmove(dst, src, count)
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return (0, 77)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        return (0,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        self.captured = []
        return (0,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        work, self.captured = self.captured, None
        return (901 if self.cannot_capture else 0, work)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return (0, graph)

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> tuple[Any, ...]:
        self.launches += 1
        for work in graph:
            work()
        return (0,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return (0,)

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        return (0,)


class FakeTensorRT:
    """The module `tensorrt`, as far as the protocols of tensorrt_api.py go."""

    __version__ = TENSORRT
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")

    class Logger:
        WARNING = 1

        def __init__(self, level: int) -> None: ...

    def __init__(self, cuda: FakeCuda, flaw: str = "", streamed: int = 0, bundle: Bundle | None = None) -> None:
        self.cuda, self.flaw, self.streamed = cuda, flaw, streamed
        self.bundle = bundle or fake_bundle()
        self.contexts: list[FakeContext] = []
        self.deserialized: list[bytes] = []

    def nptype(self, kind: Any) -> Any:
        return kind

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, plan: bytes) -> Any:
        self.deserialized.append(plan)
        return None if b"refused" in plan else FakeEngine(self, plan[len(HEADER) :].decode())


class FakeEngine:
    num_optimization_profiles = len(PROFILES)
    device_memory_size_v2 = 4096

    def __init__(self, trt: FakeTensorRT, network: str) -> None:
        self.trt = trt
        self.spec = trt.bundle.networks[network]
        self.names = [*self.spec.inputs, *self.spec.outputs]
        self.num_io_tensors = len(self.names)
        self.streamable_weights_size = trt.streamed
        self.weight_streaming_budget_v2 = trt.streamed

    def get_weight_streaming_automatic_budget(self) -> int:
        return self.streamable_weights_size // 2

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return "in" if name in self.spec.inputs else "out"

    def get_tensor_dtype(self, name: str) -> Any:
        return np.dtype({**self.spec.inputs, **self.spec.outputs}[name].dtype)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        reach = list(PROFILES.values())[profile_index]
        return [shape_of(self.spec.inputs[name].shape, sample) for sample in reach]

    def create_execution_context(self, strategy: Any) -> Any:
        assert strategy == "user"
        context = FakeContext(self)
        self.trt.contexts.append(context)
        return context


def shape_of(shape: tuple[Any, ...], sample: tuple[int, ...]) -> tuple[int, ...]:
    """An input's shape beside a `sample` of this one."""
    axes = {
        "batch": sample[0],
        "latent_height": sample[2],
        "latent_width": sample[3],
        "lh": sample[2],
        "lw": sample[3],
        "tokens": 8,
    }
    return tuple(axes[axis] if isinstance(axis, str) else axis for axis in shape)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.profile = 0
        self.memory = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return stream_handle == 77

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory in self.engine.trt.cuda.blocks

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.spec.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> Any:
        (port,) = self.engine.spec.outputs.values()
        sample = next(shape for shape in self.shapes.values() if len(shape) == 4)
        return shape_of(port.shape, sample)

    def execute_async_v3(self, stream_handle: int) -> bool:
        shapes, addresses = dict(self.shapes), dict(self.addresses)  # as a graph remembers them
        self.engine.trt.cuda.enqueue(lambda: self._compute(shapes, addresses))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        sample, timestep = (self._view(addresses[name], shapes[name]) for name in ("sample", "timestep"))
        answer = sample[:, :4] * 2 + timestep[:, None, None, None]
        if self.engine.trt.flaw == "place":
            answer += np.arange(len(sample), dtype=np.float32)[:, None, None, None] * 1e-3
        elif self.engine.trt.flaw == "size":
            answer += np.float32(len(sample) * 1e-3)
        self._view(addresses["noise_pred"], answer.shape)[:] = answer

    def _view(self, address: int, shape: tuple[int, ...]) -> Any:
        block = self.engine.trt.cuda.blocks[address]
        return np.frombuffer(block, np.float32, int(np.prod(shape))).reshape(shape)


def write_engine(folder: Path, bundle: Bundle, network: str = "unet", **changes: Any) -> Path:
    """A published engine of the fake network; changes: to its spec and result, after which its key is right again.

    Returns its folder.
    """
    spec: dict[str, Any] = {
        "schema_version": 1,
        "network": network,
        "source": {bundle.networks[network].file: bundle.files[bundle.networks[network].file].sha256},
        "precision": "fp32",
        "quantize": None,
        "profiles": [{"name": name, "shapes": {}} for name in PROFILES],
        "options": {},
        "gpu": GPU,
        "tensorrt": TENSORRT,
    }
    plan = HEADER + network.encode()
    result: dict[str, Any] = {
        "plan": f"{network}.plan",
        "sha256": hashlib.sha256(plan).hexdigest(),
        "bytes": len(plan),
        "compute_capability": CAPABILITY,
        "seconds": 1.0,
        "verified": {},
        "versions": {},
    }
    for name, value in changes.items():
        (spec if name in spec else result)[name] = value
    target = folder / "engines" / plans.key(spec)
    target.mkdir(parents=True)
    (target / f"{network}.plan").write_bytes(plan)
    (target / f"{network}.json").write_text(json.dumps({"spec": spec, "result": result}))
    return target
