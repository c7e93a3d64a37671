"""bundle.json as frozen dataclasses, read strictly, and the files that it seals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gesso_backend.errors import BundleError
from gesso_backend.model.bundle import AXES, MANIFEST, SCHEMA_VERSION, Bundle, FileSpec
from gesso_backend.model.parameters import PARAMETERS


def read(folder: Path) -> Any:
    """The JSON document of the bundle in `folder`. Raises BundleError."""
    manifest = folder / MANIFEST
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from None
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
        raise BundleError(f"{MANIFEST}: expected an object, found {document!r}")
    found = document.get("schema_version")
    if found != SCHEMA_VERSION:
        raise BundleError(f"schema_version: {found!r} is not {SCHEMA_VERSION}; export again with this gesso-export")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise BundleError(f"kind: {kind!r} is not one of {', '.join(kinds)}")
    bundle: Bundle = _decode(kinds[kind], document, "")
    for network, spec in bundle.networks.items():
        if spec.file not in bundle.files:
            raise BundleError(f"networks.{network}.file: {spec.file!r} is not in files")
        for what, ports in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            for name, port in ports.items():
                for axis in port.shape:
                    if isinstance(axis, str) and axis not in AXES:
                        raise BundleError(f"networks.{network}.{what}.{name}: {axis!r} is not one of {', '.join(AXES)}")
    for parameter in bundle.parameters:
        if parameter not in PARAMETERS:
            raise BundleError(f"parameters.{parameter}: unknown key")
    return bundle


def check_files(folder: Path, bundle: Bundle) -> None:
    """Hold every file against its size and hash. Raises BundleError naming the file."""
    for name, spec in bundle.files.items():
        _check_file(folder, name, spec)


def _check_file(folder: Path, name: str, spec: FileSpec) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"files.{name}: outside the bundle")
    if not path.is_file():
        raise BundleError(f"files.{name}: the file is missing")
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
            raise BundleError(f"{key}: expected an object, found {value!r}")
        return types.MappingProxyType({k: _decode(arguments[1], v, f"{key}.{k}") for k, v in value.items()})
    if origin is tuple:
        if not isinstance(value, list):
            raise BundleError(f"{key}: expected a list, found {value!r}")
        return tuple(_decode(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise BundleError(f"{key}: {value!r} is not one of {', '.join(map(str, arguments))}")
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
    raise BundleError(f"{key}: expected {expected}, found {value!r}")


def _decode_dataclass(kind: Any, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{key or MANIFEST}: expected an object, found {value!r}")
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
    return kind(**{name: _decode(hints[name], item, f"{prefix}{name}") for name, item in value.items()})
