"""The kinds of models that are served, each answering for the life of its requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gesso_backend.errors import BundleError
from gesso_backend.kinds.kind import Kind
from gesso_backend.model import manifest
from gesso_backend.model.bundle import Bundle
from gesso_backend.model.parameters import OWN, PARAMETERS
from gesso_backend.plugins import KINDS, found

__all__ = ["Kind", "kind_of", "open_bundle", "parse_bundle"]


def kind_of(bundle: Bundle) -> type[Kind[Any, Any]]:
    """The kind that a bundle is of."""
    return _kinds()[bundle.kind]


def open_bundle(folder: Path, verified: str = "") -> Bundle:
    """Read and check the bundle in `folder`.

    verified: the seal of a manifest whose files were just hashed; those of the same one are not hashed again.
    Raises BundleError naming the key or file: bad JSON, unknown or missing keys, numbers out of bounds, missing files,
    wrong sizes or hashes, weights that are not among the files.
    """
    bundle = parse_bundle(manifest.read(folder))
    if verified != manifest.seal(folder):
        manifest.check_files(folder, bundle)
        kind_of(bundle).check_files(folder, bundle)
    return bundle


def parse_bundle(document: Any) -> Bundle:
    """The JSON of a manifest as its kind's bundle, checked by the kind, without looking at the files.

    Its parameters are the bundle's and those of the server's own that the kind takes.
    """
    kinds = _kinds()
    bundle = manifest.parse(document, {name: kind.bundle_type for name, kind in kinds.items()})
    kind = kinds[bundle.kind]
    offered = {**{name: OWN[name] for name in kind.own_parameters}, **bundle.parameters}
    ordered = {name: offered[name] for name in PARAMETERS if name in offered}
    bundle = dataclasses.replace(bundle, parameters=MappingProxyType(ordered))
    kind.check(bundle)
    return bundle


def _kinds() -> Mapping[str, type[Kind[Any, Any]]]:
    kinds = {name: entry.load() for name, entry in found(KINDS).items()}
    if not kinds:
        raise BundleError("no kind of model is installed: reinstall gesso-backend")
    return kinds
