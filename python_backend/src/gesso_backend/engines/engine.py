"""The one contract between the loop and whatever computes: arrays in, arrays out.

An engine is a module with `load(settings, folder, bundle, call) -> EngineSet`, found by an entry point of the group
`gesso_backend.engines` under the name that `--engine` takes; none is imported until it is asked for. docs/engines.md
says when to use which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from gesso_backend.arrays import Arrays
from gesso_backend.errors import BundleError, InternalError, SettingsError
from gesso_backend.model.bundle import Bundle
from gesso_backend.plugins import ENGINES, found
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


def _no_variants(network: str, variant: Hashable) -> Engine:
    raise InternalError(f"{network}: this engine has no variants of it")


@dataclass(frozen=True)
class EngineSet:
    """The engines of a bundle."""

    engines: Mapping[str, Engine]  # by network
    names: Mapping[str, str]  # what runs each network, for reports
    warnings: tuple[str, ...] = ()  # what is not as it was asked for
    variants: Callable[[str, Hashable], Engine] = _no_variants  # of a network, by `Call.variant`

    def engine(self, network: str, variant: Hashable = None) -> Engine:
        """What runs a network, or one variant of it. Raises InternalError for a variant that is not there."""
        return self.engines[network] if variant is None else self.variants(network, variant)

    @classmethod
    def alike(cls, engines: Mapping[str, Engine], name: str, warnings: tuple[str, ...] = ()) -> EngineSet:
        """Engines that all go by one name."""
        return cls(engines, dict.fromkeys(engines, name), warnings)


class Load(Protocol):
    """What an engine's module gives: an engine for every network of a bundle, as the settings ask for them."""

    def __call__(self, settings: Settings, folder: Path, bundle: Bundle, call: CallModel | None) -> EngineSet:
        """call: how a network of Triton's is called, for an engine that does. Raises BundleError, EngineError."""


def load(settings: Settings, folder: Path, bundle: Bundle, call: CallModel | None = None) -> EngineSet:
    """The engines that the settings name. Raises SettingsError for a name that is not there."""
    known = found(ENGINES)
    if settings.engine not in known:
        raise SettingsError(f"engine: {settings.engine!r} is not one of {', '.join(known)}")
    module: Load = known[settings.engine].load()
    return module(settings, folder, bundle, call)
