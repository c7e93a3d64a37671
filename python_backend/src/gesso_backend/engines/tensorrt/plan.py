"""TensorRT plans beside a bundle: which of them belongs to this network, this GPU and this TensorRT, and why not.

`gesso-export engines` writes `engines/<key>/<network>.plan` and its spec, `<network>.json`. Nothing of a plan is given
to TensorRT before all that is said here has been looked at: a plan is code, and a foreign one crashes at best.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso_backend.engines.engine import EngineError
from gesso_backend.model.bundle import Bundle

FOLDER = "engines"
SCHEMA_VERSION = 1
TAG = 0x74727466  # how a plan begins; then the version of the format, and at byte 24 that of TensorRT
HEADER_BYTES = 28
SPEC_KEYS = {"schema_version", "network", "source", "precision", "quantize", "profiles", "options", "gpu", "tensorrt"}
RESULT_KEYS = {"plan", "sha256", "bytes", "compute_capability", "seconds", "verified", "versions"}


@dataclass(frozen=True)
class Machine:
    """What runs the plan."""

    gpu: str
    compute_capability: str  # "9.0"
    tensorrt: str


@dataclass(frozen=True)
class Plan:
    """A plan that passed every check."""

    path: Path
    network: str
    profiles: tuple[str, ...]  # their names, by index

    def read(self) -> bytes:
        return self.path.read_bytes()


def find(folder: Path, bundle: Bundle, network: str, machine: Machine) -> Plan:
    """The plan of a network for this machine. Raises EngineError with the reason against every one there is."""
    refused = []
    for spec_file in sorted((folder / FOLDER).glob(f"*/{network}.json")):
        spec, reason = _read(spec_file)
        reason = reason or _refusal(spec_file.parent, spec, bundle, network, machine)
        if reason is None:
            names = tuple(str(profile["name"]) for profile in spec["profiles"])
            return Plan(spec_file.with_suffix(".plan"), network, names)
        refused.append(f"{spec_file.parent.name}: {reason}")
    if not refused:
        raise EngineError(f"{network}: no TensorRT engine was built for this bundle; see gesso-export engines")
    raise EngineError(f"{network}: no TensorRT engine fits: " + "; ".join(refused))


def key(spec: Mapping[str, Any]) -> str:
    """The name of the folder of an engine: a hash of all that it was built from, the TensorRT version and the GPU."""
    build = {name: spec[name] for name in sorted(SPEC_KEYS)}
    text = json.dumps(build, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    gpu = re.sub(r"[^A-Za-z0-9.]+", "_", str(spec["gpu"])).strip("_")
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-trt{spec['tensorrt']}-{gpu}"


def _read(file: Path) -> tuple[dict[str, Any], str | None]:
    """(the spec, None), or ({}, why it cannot be used)."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, f"{file.name} cannot be read: {error}"
    if not isinstance(document, dict) or document.keys() != {"spec", "result"}:
        return {}, f"{file.name} is no engine spec"
    spec, result = document["spec"], document["result"]
    for name, part, keys in (("spec", spec, SPEC_KEYS), ("result", result, RESULT_KEYS)):
        if not isinstance(part, dict) or part.keys() != keys:
            found = sorted(part.keys() ^ keys) if isinstance(part, dict) else "no object"
            return {}, f"{file.name}: {name} has other keys than this version knows: {found}"
    if spec["schema_version"] != SCHEMA_VERSION:
        return {}, f"{file.name}: schema_version is {spec['schema_version']!r}, this version reads {SCHEMA_VERSION}"
    return {**spec, **result}, None


def _refusal(folder: Path, spec: Mapping[str, Any], bundle: Bundle, network: str, machine: Machine) -> str | None:
    """Why this engine is not used, cheapest look first; None when nothing is against it."""
    name, plan = bundle.networks[network].file, folder / f"{network}.plan"
    if spec["network"] != network or spec["plan"] != plan.name:
        return f"it is of {spec['network']} and {spec['plan']}"
    if key(spec) != folder.name:
        return "its folder is not named as its spec demands: renamed, or edited"
    if spec["tensorrt"] != machine.tensorrt:
        return f"built by TensorRT {spec['tensorrt']}, this is {machine.tensorrt}"
    if spec["gpu"] != machine.gpu:
        return f"built on {spec['gpu']}, this is {machine.gpu}"
    if spec["compute_capability"] != machine.compute_capability:
        return f"built for compute capability {spec['compute_capability']}, this is {machine.compute_capability}"
    files = {file: entry.sha256 for file, entry in bundle.files.items() if file == name or file.startswith(f"{name}.")}
    if spec["source"] != files:
        changed = sorted(file for file in {*files, *spec["source"]} if files.get(file) != spec["source"].get(file))
        return f"stale: {', '.join(changed)} is no longer what it was built from"
    return _damage(plan, spec)


def _damage(plan: Path, spec: Mapping[str, Any]) -> str | None:
    if not plan.is_file():
        return f"{plan.name} is missing"
    size = plan.stat().st_size
    if size != spec["bytes"]:
        return f"{plan.name} is truncated or damaged: {size} bytes, expected {spec['bytes']}"
    with plan.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if reason := _header(header, str(spec["tensorrt"])):
            return f"{plan.name} {reason}"
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != spec["sha256"]:
            return f"{plan.name} is damaged: its sha256 is not its spec's"
    return None


def _header(header: bytes, tensorrt: str) -> str | None:
    """What the plan says of itself, against its spec; as TensorRT's own trtexec reads it."""
    if len(header) < HEADER_BYTES:
        return f"is no TensorRT plan: {len(header)} bytes"
    tag, layout = struct.unpack("<II", header[:8])
    if tag != TAG:
        return f"is no TensorRT plan: it begins with {tag:#010x}, not {TAG:#010x}"
    if layout != 0:
        return None  # a layout of a later TensorRT; its size and hash say that it is the one that was built
    found = ".".join(map(str, header[24:27]))
    if found != ".".join(tensorrt.split(".")[:3]):
        return f"was written by TensorRT {found}, its spec says {tensorrt}"
    return None
