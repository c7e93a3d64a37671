"""The GPU that engines are built on, as CUDA names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gesso_export.errors import EngineError
from gesso_export.tensorrt import optional


@dataclass(frozen=True)
class Gpu:
    name: str
    compute_capability: str


def look(ordinal: int, cuda: Any = None) -> Gpu:
    """The GPU of this number; cuda: cuda-python's runtime module. Raises EngineError when it is not there."""
    cuda = cuda or optional("cuda.bindings.runtime")
    error, count = cuda.cudaGetDeviceCount()
    if int(error):
        reason = cuda.cudaGetErrorString(error)[1].decode()
        raise EngineError(f"--gpu auto: no CUDA device can be used: {reason}; name a GPU to print a key for it")
    if ordinal >= count:
        raise EngineError(f"--device: {ordinal} is not there; this machine has {count}")
    error, properties = cuda.cudaGetDeviceProperties(ordinal)
    if int(error):
        raise EngineError(f"--device: {ordinal}: {cuda.cudaGetErrorString(error)[1].decode()}")
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return Gpu(name.rstrip("\0"), f"{properties.major}.{properties.minor}")
