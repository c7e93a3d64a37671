"""bundle.json as frozen dataclasses, and its one strict reader and writer (docs/bundle.md, schema version 4).

A field whose default is None is left out of the file when it is None; every other field is always there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gesso_export.bundle.tensor import AXES, TensorSpec, free_axes
from gesso_export.errors import ManifestError

SCHEMA_VERSION = 4
FILE_NAME = "bundle.json"
KIND = "diffusion"
KINDS = (KIND,)
VAE = ("vae_encoder", "vae_decoder")

Scalar = str | int | float | bool


@dataclass(frozen=True)
class NetworkSpec:
    file: str
    precision: str  # of the weights and the arithmetic (precision/); inputs and outputs are float32 either way
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    @property
    def cpu_file(self) -> str:
        """Its second graph, for ONNX Runtime on the CPU (graph/attention.py); a bundle need not have one."""
        return PurePosixPath(self.file).with_suffix(".cpu.onnx").as_posix()

    @property
    def free_axes(self) -> set[str]:
        return free_axes([*self.inputs.values(), *self.outputs.values()])


@dataclass(frozen=True)
class SchedulerSpec:
    config: dict[str, Any]  # scheduler_config.json, untouched


@dataclass(frozen=True)
class VaeSpec:
    factor: int  # pixels per latent, on each side
    latent_channels: int
    scaling_factor: float
    shift_factor: float


@dataclass(frozen=True)
class SizeSpec:
    """Picture sizes, in pixels."""

    native: int
    multiple: int
    max_pixels: int


@dataclass(frozen=True)
class TokenizerSpec:
    file: str
    max_length: int
    bos_token_id: int | None  # None: texts have no begin
    eos_token_id: int
    pad_token_id: int
    embeddings: dict[str, int] | None = None  # textual inversions: token -> how many vectors it stands for


@dataclass(frozen=True)
class PreviewRgb:
    """rgb = latents @ matrix + bias, from scaled latents to [-1, 1]."""

    matrix: tuple[tuple[float, ...], ...]  # latent channels x 3
    bias: tuple[float, ...]  # 3


@dataclass(frozen=True)
class Parameter:
    """Default and bounds of one request parameter; without a default it is optional (docs/api.md)."""

    type: str
    default: Scalar | None = None
    minimum: Scalar | None = None
    maximum: Scalar | None = None
    choices: tuple[str, ...] | None = None
    max_bytes: int | None = None
    min_items: int | None = None  # of a list; minimum and maximum are each item's
    max_items: int | None = None


@dataclass(frozen=True)
class Source:
    checkpoint: str
    revision: str | None
    pipeline: str


@dataclass(frozen=True)
class FileSpec:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Bundle:
    """The whole manifest."""

    schema_version: int
    kind: str  # of model: one of KINDS
    name: str
    family: str
    networks: dict[str, NetworkSpec]
    denoiser: str  # the network that is called at every step
    native_inpainting: bool  # the denoiser was trained on masks, and takes them in channels of their own
    scheduler: SchedulerSpec
    vae: VaeSpec
    size: SizeSpec
    tokenizers: dict[str, TokenizerSpec]  # by text encoder
    preview_rgb: PreviewRgb
    parameters: dict[str, Parameter]
    task_defaults: dict[str, dict[str, Scalar]]
    source: Source
    license: str
    files: dict[str, FileSpec]
    exporter: dict[str, str]
    options: dict[str, Any]  # what else the backend's part of the family has to know


def ports(specs: Mapping[str, TensorSpec]) -> str:
    """Inputs or outputs, to be read by people."""
    return ", ".join(f"{name}[{','.join(map(str, spec.shape))}]" for name, spec in specs.items())


def read(folder: Path) -> Bundle:
    """Read the manifest of the bundle in `folder`.

    Raises ManifestError naming the key that is unknown, missing or of the wrong type, or the kind that is not known.
    """
    path = folder / FILE_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{folder} is not a bundle: it has no {FILE_NAME}") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    header = data if isinstance(data, dict) else {}
    version, kind = header.get("schema_version"), header.get("kind")
    if version != SCHEMA_VERSION:
        raise ManifestError(f"{path}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}; export again")
    if kind not in KINDS:
        raise ManifestError(f"{path}: kind is {kind!r}; known are {', '.join(KINDS)}")
    bundle = _parse(Bundle, data, FILE_NAME)
    for name in (*bundle.tokenizers, *VAE, bundle.denoiser):
        if name not in bundle.networks:
            raise ManifestError(f"{path}: networks has no {name}")
    for name, network in bundle.networks.items():
        if unknown := sorted(network.free_axes - set(AXES)):
            raise ManifestError(f"{path}: networks.{name} has an axis {unknown[0]!r}; known are {', '.join(AXES)}")
    named = [network.file for network in bundle.networks.values()]
    named += [tokenizer.file for tokenizer in bundle.tokenizers.values()]
    for file in named:
        if file not in bundle.files:
            raise ManifestError(f"{path}: files has no entry for {file}")
    for file in bundle.files:
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise ManifestError(f"{path}: {file} is outside the bundle")
    return bundle


def dumps(bundle: Bundle) -> str:
    """The text of bundle.json; the same manifest always gives the same text."""
    return json.dumps(_plain(bundle), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(item)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) is not None or field.default is not None
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


T = TypeVar("T")


def _parse(kind: type[T], data: object, where: str) -> T:
    """Build the dataclass `kind` from JSON, holding every key and value against its annotations."""
    if not isinstance(data, dict):
        raise ManifestError(f"{where} is not an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in data:
        if key not in fields:
            raise ManifestError(f"{where}: unknown key {key!r}")
    for key, field in fields.items():
        if key not in data and field.default is dataclasses.MISSING:
            raise ManifestError(f"{where}: missing key {key!r}")
    return kind(**{key: _value(hints[key], item, f"{where}: {key}") for key, item in data.items()})


def _value(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _parse(typing.cast("type[Any]", kind), data, where)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            with contextlib.suppress(ManifestError):
                return _value(option, data, where)
    elif origin is dict and isinstance(data, dict):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    elif origin is tuple and isinstance(data, list):
        return tuple(_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    elif kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    elif origin is None and isinstance(data, kind) and isinstance(data, bool) == (kind is bool):
        return data
    raise ManifestError(f"{where} has the wrong type: {data!r}")
