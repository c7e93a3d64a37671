"""One CUDA device: memory, a stream, copies and graphs, by cuda-python. No torch."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gesso_backend.engines.engine import EngineError
from gesso_backend.engines.tensorrt.cuda_api import CudaRuntime
from gesso_backend.errors import InternalError


def cuda_runtime() -> CudaRuntime:
    """cuda-python's runtime module. Raises EngineError when it is not installed."""
    try:
        module: CudaRuntime = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise EngineError(f"cuda-python is not installed ({error}); pip install 'gesso-backend[tensorrt]'") from error
    return module


class Device:
    """Raises EngineError when the device is not there, and InternalError for what goes wrong on it."""

    def __init__(self, ordinal: int, cuda: CudaRuntime) -> None:
        self.ordinal = ordinal
        self._cuda = cuda
        try:
            (count,) = self._call(cuda.cudaGetDeviceCount)
            if ordinal >= count:
                raise EngineError(f"device: {ordinal} is not there; this machine has {count}")
            (properties,) = self._call(cuda.cudaGetDeviceProperties, ordinal)
            self.use()
            (self.stream,) = self._call(cuda.cudaStreamCreateWithFlags, cuda.cudaStreamNonBlocking)
        except InternalError as error:
            raise EngineError(f"no CUDA device can be used: {error.text}") from error
        name = properties.name
        self.name = (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0")
        self.compute_capability = f"{properties.major}.{properties.minor}"

    def use(self) -> None:
        """Make it the calling thread's device; each thread has its own."""
        self._call(self._cuda.cudaSetDevice, self.ordinal)

    def allocate(self, size: int) -> int:
        """The address of so many bytes on the device."""
        (address,) = self._call(self._cuda.cudaMalloc, max(size, 1))
        return int(address)

    def free(self, address: int) -> None:
        self._call(self._cuda.cudaFree, address)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array in page-locked memory, from which copies run beside the device. `free_pinned` gives it back."""
        size = max(int(np.prod(shape)) * dtype.itemsize, 1)
        (address,) = self._call(self._cuda.cudaHostAlloc, size, self._cuda.cudaHostAllocDefault)
        buffer: Any = (ctypes.c_uint8 * size).from_address(int(address))
        array: np.ndarray[Any, Any] = np.frombuffer(buffer, dtype, int(np.prod(shape))).reshape(shape)
        return array

    def free_pinned(self, array: np.ndarray[Any, Any]) -> None:
        self._call(self._cuda.cudaFreeHost, array.ctypes.data)

    def to_device(self, address: int, pinned: np.ndarray[Any, Any]) -> None:
        """Begin a copy. The array must stay as it is until `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync, address, pinned.ctypes.data, pinned.nbytes, kind, self.stream)

    def to_host(self, pinned: np.ndarray[Any, Any], address: int) -> None:
        """Begin a copy. The array holds it after `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cuda.cudaMemcpyAsync, pinned.ctypes.data, address, pinned.nbytes, kind, self.stream)

    def wait(self) -> None:
        """Until all that was begun is done."""
        self._call(self._cuda.cudaStreamSynchronize, self.stream)

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` puts on the stream, as a graph to `launch`; it does not run now. Raises what it raises."""
        cuda = self._cuda
        # Of this thread only: another's allocation would else break the capture.
        self._call(
            cuda.cudaStreamBeginCapture, self.stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )
        try:
            enqueue()
        except BaseException:
            cuda.cudaStreamEndCapture(self.stream)  # the stream is of no use while it captures
            raise
        (graph,) = self._call(cuda.cudaStreamEndCapture, self.stream)
        try:
            (executable,) = self._call(cuda.cudaGraphInstantiate, graph, 0)
        finally:
            self._call(cuda.cudaGraphDestroy, graph)
        return executable

    def launch(self, graph: Any) -> None:
        self._call(self._cuda.cudaGraphLaunch, graph, self.stream)

    def free_graph(self, graph: Any) -> None:
        self._call(self._cuda.cudaGraphExecDestroy, graph)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        error, *values = function(*arguments)
        if int(error):
            _, text = self._cuda.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            raise InternalError(f"CUDA: {getattr(function, '__name__', 'call')}: {reason}")
        return tuple(values)
