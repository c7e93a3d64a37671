"""The one contract between the loop and whatever computes: arrays in, arrays out.

Implementations are files beside this one, none imported until it is asked for. docs/engines.md says when to use which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from gesso_backend.bundle import Bundle
from gesso_backend.calls import Arrays
from gesso_backend.errors import BundleError, InternalError
from gesso_backend.settings import Settings

log = logging.getLogger(__name__)

Outputs: TypeAlias = dict[str, np.ndarray[Any, Any]]
# Calls a network that is a Triton model: its name, inputs, and the names of the outputs wanted.
CallModel: TypeAlias = Callable[[str, Arrays, Sequence[str]], Outputs]


class Engine(Protocol):
    """One network. Inputs and outputs are named as in the bundle; the first axis of each is the row.

    A row's outputs must not depend on the other rows of its batch, to the last bit.
    """

    def __call__(self, **inputs: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]: ...


class EngineError(BundleError):
    """A network cannot be run in the way the settings ask for; says why."""


class NoProfile(InternalError):
    """A TensorRT engine was not built for this shape."""


class EngineSet(dict[str, Engine]):
    """The engines of a bundle, by network; `kinds` says what runs each, `warnings` what is not as it was asked for."""

    def __init__(
        self, engines: Mapping[str, Engine], kinds: Mapping[str, str] | str, warnings: tuple[str, ...] = ()
    ) -> None:
        super().__init__(engines)
        self.kinds = dict.fromkeys(engines, kinds) if isinstance(kinds, str) else dict(kinds)
        self.warnings = warnings


def load_engines(settings: Settings, folder: Path, bundle: Bundle, call: CallModel | None = None) -> EngineSet:
    """An engine for every network of a bundle, as the settings ask for them.

    call: how a network of Triton's is called, for the `triton` engine. Raises BundleError, EngineError saying why.
    """
    if settings.engine == "triton":
        from gesso_backend.engines import triton

        return triton.load_engines(settings, bundle, call)
    if settings.engine == "tensorrt":
        from gesso_backend.engines import tensorrt

        return tensorrt.load_engines(settings, folder, bundle)
    if settings.providers == "cpu":
        from gesso_backend.engines import onnxruntime

        return EngineSet(onnxruntime.load_engines(folder, bundle, settings.threads), "onnxruntime (cpu)")
    from gesso_backend.engines import onnxruntime_gpu

    return onnxruntime_gpu.load_engines(settings, folder, bundle)
