"""TensorRT engines: what gesso-export publishes is what the backend finds, key and all."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path

import pytest

import bundles as made
from gesso_backend.engines.engine import EngineError
from gesso_backend.engines.tensorrt import plan
from gesso_backend.kinds import open_bundle
from gesso_export.bundle import manifest
from gesso_export.tensorrt import publish
from gesso_export.tensorrt.build import BuildSettings, specs
from gesso_export.tensorrt.spec import Result

GPU, TENSORRT = "NVIDIA H100 80GB HBM3", "11.4.0.106"
HEADER = struct.pack("<II16x4B", plan.TAG, 0, 11, 4, 0, 106)


@pytest.fixture
def folder(gesso_bundles: Path, tmp_path: Path) -> Path:
    """A copy, to publish engines in."""
    return Path(shutil.copytree(made.export(gesso_bundles, **made.OTHER)[1], tmp_path / "bundle"))


def test_a_published_engine_is_found_and_another_is_not(folder: Path) -> None:
    """Guards the key, the spec's keys, the hashes of graph and weights, and the folders, at both ends at once."""
    for spec in specs(manifest.read(folder), BuildSettings(), GPU, TENSORRT):
        assert plan.key(spec.document()) == spec.key
        with publish.staged(folder, spec) as staging:
            file = staging / f"{spec.network}.plan"
            file.write_bytes(HEADER + spec.network.encode())
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            result = Result(file.name, digest, file.stat().st_size, "9.0", 1.0, {"largest_error": 0.0}, {})
            publish.publish(folder, spec, file, result)
        assert publish.published(folder, spec)
    bundle = open_bundle(folder)
    for network in bundle.networks:
        found = plan.find(folder, bundle, network, plan.Machine(GPU, "9.0", TENSORRT))
        assert found.read() == HEADER + network.encode()
        assert found.profiles[0] == "native"
        with pytest.raises(EngineError, match="built by TensorRT"):
            plan.find(folder, bundle, network, plan.Machine(GPU, "9.0", "11.5.0.1"))
    manifest.read(folder)  # a bundle with engines is a bundle as it was
