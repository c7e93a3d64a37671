"""What is used of TensorRT's Python builder API beside Polygraphy, the same in TensorRT 10 and 11.

tests/export/test_engines_api.py holds these names against the real classes.
"""

from __future__ import annotations

from typing import Any, Protocol


class BuilderConfig(Protocol):
    """tensorrt.IBuilderConfig"""

    def set_flag(self, flag: Any) -> None: ...


class NetworkDefinition(Protocol):
    """tensorrt.INetworkDefinition"""

    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> Any: ...
    def get_output(self, index: int) -> Any: ...


class TensorRT(Protocol):
    """The module `tensorrt`."""

    __version__: str
    BuilderFlag: Any
    IProgressMonitor: type
    MemoryPoolType: Any
