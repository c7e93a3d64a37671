"""The bundle as data: all that the server knows about a model, whatever its kind (docs/bundle.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from gesso_backend.model.parameters import PARAMETERS, Parameter

MANIFEST = "bundle.json"
SCHEMA_VERSION = 4
# Every free axis of every network has one of these names.
AXES = ("batch", "tokens", "latent_height", "latent_width", "height", "width")


WITHIN = "within"


def within(least: float, most: float) -> Any:
    """A field whose number, or all of whose numbers, lie between these; the manifest's reader sees to it."""
    return field(metadata={WITHIN: (least, most)})


@dataclass(frozen=True)
class TensorSpec:
    dtype: str
    shape: tuple[int | str, ...] = within(1, 2**24)  # a name is a free axis, one of AXES


@dataclass(frozen=True)
class NetworkSpec:
    file: str
    precision: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def has(self, axis: str) -> bool:
        """Whether an axis of this name is in any input or output."""
        return any(axis in port.shape for port in (*self.inputs.values(), *self.outputs.values()))

    @property
    def sees(self) -> Literal["pixels", "latents", "tokens"]:
        """The largest thing it works on, which decides what a row of it costs."""
        return "pixels" if self.has("height") else "latents" if self.has("latent_height") else "tokens"


@dataclass(frozen=True)
class SizeSpec:
    native: int = within(1, 2**14)  # pixels a side the model was trained at
    multiple: int = within(1, 2**12)  # a working side is a multiple of this
    max_pixels: int = within(1, 2**28)  # most pixels a network is run at


@dataclass(frozen=True)
class SourceSpec:
    checkpoint: str
    revision: str | None
    pipeline: str


@dataclass(frozen=True)
class FileSpec:
    sha256: str
    bytes: int = within(0, 2**50)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What bundles of every kind say. A kind's own bundle is a subclass with its own parts."""

    tasks: ClassVar[tuple[str, ...]] = ()  # what a request may ask for

    schema_version: int
    kind: str
    name: str
    networks: Mapping[str, NetworkSpec]
    size: SizeSpec
    parameters: Mapping[str, Parameter]
    task_defaults: Mapping[str, Mapping[str, Any]]
    source: SourceSpec
    license: str
    files: Mapping[str, FileSpec]
    exporter: Mapping[str, str]
    options: Mapping[str, Any]  # what else its kind has to know

    @property
    def latent_factor(self) -> int:
        """Pixels per cell of the axes `latent_height` and `latent_width`."""
        return 1

    @property
    def token_lengths(self) -> tuple[int, int]:
        """The shortest and the longest that one text is to a network, in tokens."""
        return 1, 1

    def axes(self, rows: int, side: int, tokens: int | None = None) -> dict[str, int]:
        """The size of each of AXES for a square picture of so many pixels a side; tokens: the shortest text's."""
        cells = side // self.latent_factor
        tokens = self.token_lengths[0] if tokens is None else tokens
        return dict(zip(AXES, (rows, tokens, cells, cells, side, side), strict=True))

    def describe(self, limits: Mapping[str, int]) -> dict[str, Any]:
        """What a client may know of the model: names, sizes, and each parameter's type, default and bounds.

        limits: the server's, of what one request may hold.
        """
        return {
            "schema_version": self.schema_version,
            "kind": self.kind,
            "name": self.name,
            "family": None,
            "native_inpainting": False,
            "tasks": list(self.tasks),
            "size": dataclasses.asdict(self.size),
            "parameters": {
                name: {
                    "type": spec.type,
                    "datatype": PARAMETERS[name].datatype,
                    **{k: v for k, v in dataclasses.asdict(spec).items() if k != "type" and v is not None},
                }
                for name, spec in self.parameters.items()
            },
            "task_defaults": {task: dict(defaults) for task, defaults in self.task_defaults.items()},
            "limits": dict(limits),
        }
