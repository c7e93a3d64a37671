"""What an engine is a function of, its key, and the JSON beside its plan (docs/engines.md, schema version 1)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gesso_export.bundle.manifest import Bundle

SCHEMA_VERSION = 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input under one profile; `opt` is the one that is tuned for."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class Profile:
    name: str
    shapes: Mapping[str, ShapeRange]  # by input


@dataclass(frozen=True)
class Options:
    refittable: bool = False
    weight_streaming: bool = False
    row_independence: bool = True  # each row by the same operations, wherever it stands in the batch
    optimization_level: int = 3  # 0 to 5
    workspace_mib: int = 0  # 0: as much as the GPU has


@dataclass(frozen=True)
class Spec:
    """One network's engine on one kind of GPU. Precision is in the graph; TensorRT is to follow it (strong typing)."""

    network: str
    source: Mapping[str, str]  # the ONNX file and its external data -> sha256
    precision: str  # of the graph
    quantize: str | None  # "fp8" or "int8": quantised by nvidia-modelopt before it is built
    profiles: tuple[Profile, ...]
    options: Options
    gpu: str  # its name, as CUDA says it
    tensorrt: str  # version

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}))
        return plain

    @property
    def key(self) -> str:
        """The name of the engine's folder: a hash of all of the spec, then what a person looks for."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-{machine_name(self.gpu, self.tensorrt)}"


@dataclass(frozen=True)
class Result:
    """What came of a spec, and how it was held against ONNX Runtime."""

    plan: str
    sha256: str
    bytes: int
    compute_capability: str
    seconds: float
    verified: Mapping[str, Any]
    versions: Mapping[str, str]


def machine_name(gpu: str, tensorrt: str) -> str:
    """For file names: `trt11.4.0.106-NVIDIA_H100_80GB_HBM3`."""
    return f"trt{tensorrt}-" + re.sub(r"[^A-Za-z0-9.]+", "_", gpu).strip("_")


def source_of(bundle: Bundle, network: str) -> dict[str, str]:
    """The files that a network is made of, with their hashes."""
    name = bundle.networks[network].file
    return {file: spec.sha256 for file, spec in bundle.files.items() if file == name or file.startswith(f"{name}.")}


def parse(document: Mapping[str, Any]) -> Spec:
    """A spec from its own JSON; what the parent wrote for the child."""
    profiles = tuple(
        Profile(profile["name"], {name: ShapeRange(**_shapes(shapes)) for name, shapes in profile["shapes"].items()})
        for profile in document["profiles"]
    )
    fields = {key: value for key, value in document.items() if key != "schema_version"}
    return Spec(**{**fields, "profiles": profiles, "options": Options(**document["options"])})


def _shapes(document: Mapping[str, list[int]]) -> dict[str, Shape]:
    return {which: tuple(shape) for which, shape in document.items()}
