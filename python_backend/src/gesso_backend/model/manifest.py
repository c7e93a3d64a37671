"""bundle.json as frozen dataclasses, read strictly, and the files that it seals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import stat
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from gesso_backend.errors import BundleError
from gesso_backend.model import external
from gesso_backend.model.bundle import AXES, MANIFEST, SCHEMA_VERSION, WITHIN, Bundle, FileSpec
from gesso_backend.model.parameters import PARAMETERS, Parameter

MAX_BYTES = 2**24  # of the manifest
DEEPEST = 16  # lists and objects in one another


def read(folder: Path) -> Any:
    """The JSON document of the bundle in `folder`. Raises BundleError."""
    manifest = folder / MANIFEST
    try:
        if not stat.S_ISREG(manifest.stat().st_mode):
            raise ValueError("is not a regular file")
        if manifest.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from None
    except RecursionError:
        raise BundleError(f"{manifest}: nested too deep") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest}: {error}") from None


def seal(folder: Path) -> str:
    """A digest of the manifest, which has the digests of all else."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def parse(document: Any, kinds: Mapping[str, type[Bundle]]) -> Bundle:
    """The manifest as its kind's Bundle, without looking at the files. Raises BundleError naming the key.

    kinds: the type of each kind's bundles.
    """
    if not isinstance(document, dict):
        raise BundleError(f"{MANIFEST}: expected an object, found {_shown(document)}")
    _check_values(document)
    found = document.get("schema_version")
    if found != SCHEMA_VERSION:
        raise BundleError(
            f"schema_version: {_shown(found)} is not {SCHEMA_VERSION}; export again with this gesso-export"
        )
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise BundleError(f"kind: {_shown(kind)} is not one of {', '.join(kinds)}")
    bundle: Bundle = _decode(kinds[kind], document, "")
    for network, spec in bundle.networks.items():
        if spec.file not in bundle.files:
            raise BundleError(f"networks.{network}.file: {spec.file!r} is not in files")
        for what, ports in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            for name, port in ports.items():
                for axis in port.shape:
                    if isinstance(axis, str) and axis not in AXES:
                        raise BundleError(f"networks.{network}.{what}.{name}: {axis!r} is not one of {', '.join(AXES)}")
    for parameter, bounds in bundle.parameters.items():
        if parameter not in PARAMETERS:
            raise BundleError(f"parameters.{parameter}: unknown key")
        _check_parameter(f"parameters.{parameter}", bounds, PARAMETERS[parameter].type)
    return bundle


MOST_BYTES, MOST_ITEMS = 2**20, 4096  # of any parameter


def _check_parameter(key: str, spec: Parameter, expected: str) -> None:
    """A parameter of the table's type, bounded at both ends, whose default is one of its values."""
    if spec.type != expected:
        raise BundleError(f"{key}.type: {spec.type!r} is not {expected!r}")
    if spec.type == "string" and spec.choices is None and not 1 <= (spec.max_bytes or 0) <= MOST_BYTES:
        raise BundleError(f"{key}.max_bytes: {spec.max_bytes} is not from 1 to {MOST_BYTES}")
    if spec.type in ("ints", "floats") and not (spec.min_items or 1) <= (spec.max_items or 1) <= MOST_ITEMS:
        raise BundleError(f"{key}.max_items: {spec.max_items} is not from {spec.min_items or 1} to {MOST_ITEMS}")
    if spec.type in ("string", "bool"):
        if spec.choices is not None and spec.default is not None and spec.default not in spec.choices:
            raise BundleError(f"{key}.default: {_shown(spec.default)} is not among the choices")
        return
    if spec.minimum is None or spec.maximum is None or spec.minimum > spec.maximum:
        raise BundleError(f"{key}: needs a minimum and a maximum, found {spec.minimum} and {spec.maximum}")
    number = isinstance(spec.default, int | float) and not isinstance(spec.default, bool)
    if spec.default is not None and not (number and spec.minimum <= float(spec.default) <= spec.maximum):
        raise BundleError(f"{key}.default: {_shown(spec.default)} is not from {spec.minimum} to {spec.maximum}")


def check_files(folder: Path, bundle: Bundle) -> None:
    """Hold every file against its size and hash, and see that all weights are among them.

    Raises BundleError naming the file.
    """
    for name, spec in bundle.files.items():
        _check_file(folder, name, spec)
    for name in bundle.files:
        if name.endswith(".onnx"):
            _check_weights(folder, name, bundle)


def _check_weights(folder: Path, name: str, bundle: Bundle) -> None:
    """Weights that a graph leaves in other files are in files that were hashed."""
    try:
        found = external.locations(folder / name)
    except (OSError, ValueError) as error:
        raise BundleError(f"files.{name}: {error}") from None
    for location in sorted(found):
        if (PurePosixPath(name).parent / location).as_posix() not in bundle.files:
            raise BundleError(f"files.{name}: its weights are in {location[:200]!r}, which is not in files")


def _check_file(folder: Path, name: str, spec: FileSpec) -> None:
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"files.{name}: outside the bundle")
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise BundleError(f"files.{name}: the file is missing") from None
    except (OSError, ValueError, RuntimeError) as error:  # a link to itself, a name with a 0 in it
        raise BundleError(f"files.{name!r}: {error}") from None
    if stat.S_ISDIR(mode):
        raise BundleError(f"files.{name}: the file is missing")
    if not stat.S_ISREG(mode):
        raise BundleError(f"files.{name}: is not a regular file")
    if path.stat().st_size != spec.bytes:
        raise BundleError(f"files.{name}: {path.stat().st_size} bytes, expected {spec.bytes}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != spec.sha256:
            raise BundleError(f"files.{name}: sha256 differs from the manifest's; the file is damaged")


def _decode(kind: Any, value: Any, key: str) -> Any:
    """`value` (from JSON) as `kind`: a dataclass, tuple, mapping, union, literal or plain type."""
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, key)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise BundleError(f"{key}: expected an object, found {_shown(value)}")
        return types.MappingProxyType({k: _decode(arguments[1], v, f"{key}.{k}") for k, v in value.items()})
    if origin is tuple:
        if not isinstance(value, list):
            raise BundleError(f"{key}: expected a list, found {_shown(value)}")
        return tuple(_decode(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise BundleError(f"{key}: {_shown(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    choices = arguments if origin in (typing.Union, types.UnionType) else (kind,)
    for choice in choices:
        if typing.get_origin(choice) in (tuple, Mapping) and isinstance(value, list | dict):
            return _decode(choice, value, key)
        if type(value) is choice:
            return value
    if float in choices and type(value) is int:
        return float(value)
    expected = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise BundleError(f"{key}: expected {expected}, found {_shown(value)}")


def _decode_dataclass(kind: Any, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{key or MANIFEST}: expected an object, found {_shown(value)}")
    hints = {
        name: hint
        for name, hint in typing.get_type_hints(kind).items()
        if typing.get_origin(hint) is not typing.ClassVar
    }
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            raise BundleError(f"{prefix}{name}: unknown key")
    for field in dataclasses.fields(kind):
        if field.name not in value and field.default is dataclasses.MISSING:
            raise BundleError(f"{prefix}{field.name}: missing")
    read = {name: _decode(hints[name], item, f"{prefix}{name}") for name, item in value.items()}
    for field in dataclasses.fields(kind):
        if field.name in read and WITHIN in field.metadata:
            _check_within(read[field.name], field.metadata[WITHIN], f"{prefix}{field.name}")
    return kind(**read)


def _check_within(value: Any, bounds: tuple[float, float], key: str) -> None:
    """A number, or all in lists and objects, lie within the bounds. Raises BundleError naming the key."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_within(item, bounds, f"{key}.{name}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_within(item, bounds, f"{key}[{i}]")
    elif isinstance(value, int | float) and not bounds[0] <= value <= bounds[1]:
        raise BundleError(f"{key}: {_shown(value)} is not from {bounds[0]:g} to {bounds[1]:g}")


def _check_values(document: Mapping[str, Any]) -> None:
    """Numbers are finite and of 64 bits, wherever they are, and nothing is nested deep. Raises BundleError."""
    todo: list[tuple[str, Any, int]] = [(key, value, 1) for key, value in document.items()]
    while todo:
        key, value, depth = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise BundleError(f"{key}: {value} is no finite number")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BundleError(f"{key}: {_shown(value)} is beyond 64 bits")
        if isinstance(value, dict | list):
            if depth > DEEPEST:
                raise BundleError(f"{key[:200]}: nested more than {DEEPEST} deep")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{key}.{name}", item, depth + 1) for name, item in items]


def _shown(value: Any) -> str:
    return reprlib.repr(value)
