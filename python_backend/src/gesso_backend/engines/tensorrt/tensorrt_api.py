"""What is used of TensorRT's Python runtime, and nothing else of it: the same in TensorRT 10 and 11.

The code is type-checked against these protocols, and tests/backend/test_engines_api.py holds them against the real
classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Context(Protocol):
    """tensorrt.IExecutionContext"""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def infer_shapes(self) -> list[str]: ...
    def get_tensor_shape(self, name: str) -> Iterable[int]: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class CudaEngine(Protocol):
    """tensorrt.ICudaEngine"""

    num_io_tensors: int
    num_optimization_profiles: int
    device_memory_size_v2: int
    streamable_weights_size: int
    weight_streaming_budget_v2: int

    def get_weight_streaming_automatic_budget(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Iterable[int]]: ...
    def create_execution_context(self, strategy: Any) -> Context | None: ...


class Runtime(Protocol):
    """tensorrt.Runtime"""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None: ...


class TensorRT(Protocol):
    """The module `tensorrt`."""

    __version__: str
    Logger: Any
    TensorIOMode: Any
    ExecutionContextAllocationStrategy: Any

    def Runtime(self, logger: Any) -> Runtime: ...
    def nptype(self, trt_type: Any) -> Any: ...
