"""Tiny checkpoints and bundles for tests, made once per folder and set of options and shared between processes.

@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return bundles.export(bundles.shared_root(tmp_path_factory), in_channels=4)[1]
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from random_checkpoint import MAKERS

LITTLE_WORLD = Path(__file__).parent.parent / "examples" / "little-world"

# The smallest networks that still have every kind of layer: for tests that export a bundle of their own.
MICRO: dict[str, Any] = {"unet_channels": [32], "vae_channels": [16, 16], "text_layers": 1, "sample_size": 16}


def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every test folder and every worker of this session shares."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"


def checkpoint(root: Path, **options: Any) -> Path:
    """A checkpoint made with these options of its preset's maker (examples/random_checkpoint.py), under `root`."""
    folder = root / f"checkpoint-{_key(options)}"
    with _lock(folder):
        if not (folder / "model_index.json").exists():  # written last
            MAKERS[options.get("preset", "tiny")](folder, **options)
    return folder


def export(root: Path, *, precision: str = "fp32", **options: Any) -> tuple[Path, Path]:
    """(checkpoint directory, bundle directory) for these options of `checkpoint`, under `root`."""
    source = checkpoint(root, **options)
    return source, _export(source, root / f"bundle-{precision}-{_key(options)}", precision)


def export_little_world(root: Path) -> Path:
    """The bundle of the model that gesso ships, under `root`."""
    files = sorted(file for file in LITTLE_WORLD.rglob("*") if file.suffix in (".json", ".txt", ".safetensors"))
    contents = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    return _export(LITTLE_WORLD, root / f"little-world-{contents.hexdigest()[:12]}", "fp32")


def _export(source: Path, folder: Path, precision: str) -> Path:
    from gesso_export.checkpoint.checkpoint import open_checkpoint
    from gesso_export.export import export as export_bundle

    with _lock(folder):
        if not folder.exists():  # a bundle is visible only when it is whole
            export_bundle(open_checkpoint(source, source.name), folder, precision=precision)
    return folder


def _key(options: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]


class _lock:
    """Hold `<path>.lock` so that of several test processes one makes the artefact and the others wait for it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.with_name(f"{path.name}.lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()
