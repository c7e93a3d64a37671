"""Preparing the model repository a server reads: the committed one, plus each bundle's parameters."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from gesso_backend.errors import ServeError
from gesso_backend.host.network_repository import write_networks
from gesso_backend.host.private import write_private
from gesso_backend.kinds import open_bundle
from gesso_backend.model import manifest
from gesso_backend.settings import Settings

COMMITTED = Path(__file__).parent.parent / "model_repository"
STREAMING, ONCE = "inpaint", "inpaint_once"
ONCE_SUFFIX = "_once"
BOUNDS = ("max_queue", "max_image_pixels")  # settings that the shim has too: what it refuses need not travel on


def write(
    target: Path,
    served: Mapping[str, Path],
    settings: Settings,
    control: Path | None = None,
    waiting_mib: int | None = None,
) -> list[str]:
    """Write the repository for `served` (model name -> bundle) into `target`; returns the names of its models that have
    a Python process: all but networks on other backends.

    control: where each served model gets a folder of its name to be asked to drain through. waiting_mib: how much of
    pictures may wait in each shim; as much as in its model where it is not given.
    Raises BundleError for a bundle that cannot be served, ServeError for a bad name.
    """
    names = []
    for name, folder in served.items():
        _check_name(name)
        bundle = open_bundle(folder)
        description = json.dumps(bundle.describe(settings.limits))
        own = dataclasses.replace(settings, verified=manifest.seal(folder))
        if control is not None:
            (control / name).mkdir(parents=True)
            own = dataclasses.replace(own, control=str(control / name))
        _write_model(target / name, STREAMING, {**own.to_parameters(), "gesso": description})
        write_private(target / name / "1", folder, own)
        bounds = {bound: str(getattr(settings, bound)) for bound in BOUNDS}
        bounds["max_input_mib"] = str(settings.max_input_mib if waiting_mib is None else waiting_mib)
        _write_model(target / f"{name}{ONCE_SUFFIX}", ONCE, {"target": name, **bounds})
        names += [name, f"{name}{ONCE_SUFFIX}"]
        if settings.engine == "triton":
            names += write_networks(target, name, folder, bundle, settings)
    return names


def _write_model(folder: Path, source: str, parameters: Mapping[str, str]) -> None:
    shutil.copytree(COMMITTED / source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "config.pbtxt").open("a", encoding="utf-8") as config:
        for key, value in parameters.items():
            quoted = json.dumps(value, ensure_ascii=False)  # JSON's escapes are the text format's too
            config.write(f'parameters {{ key: "{key}" value {{ string_value: {quoted} }} }}\n')


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name.endswith(ONCE_SUFFIX):
        raise ServeError(
            f"--name: {name!r} is no model name; use letters, digits, '_', '-' and '.', not ending in {ONCE_SUFFIX}"
        )
