"""Tiny checkpoints and bundles for tests, made once per folder and set of options and shared between processes.

    bundles.export(root, in_channels=4)

`root` is one of two fixtures of tests/conftest.py: `gesso_bundles`, a folder in the user's cache, where the next run
finds them again, or `fresh_bundles`, a folder of this run, for the tests that look at what the exporter does.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LITTLE_WORLD = ROOT / "examples" / "little-world"

# The smallest networks that still have every kind of layer: for tests that export a bundle of their own.
MICRO: dict[str, Any] = {"unet_channels": [32], "vae_channels": [16, 16], "text_layers": 1, "sample_size": 16}

# What differs from the plain one in all that a checkpoint may: channels, prediction, text encoder, VAE factor.
OTHER: dict[str, Any] = {**MICRO, "in_channels": 4, "prediction_type": "v_prediction", "openclip": True}

# The exporter's sources, the makers of checkpoints, the shipped model, and the pins.
MADE_BY = ("export/src/gesso_export/**/*", "examples/*.py", "examples/little-world/**/*", "constraints.txt")
GENERATIONS = 2  # that are kept: this tree's and the one used before it, so that two branches can take turns
IN_USE = "in-use"


@functools.cache
def cached() -> Path:
    """The folder in the user's cache that belongs to this tree."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return generation(cache / "gesso" / "test-bundles", key(ROOT))


def key(root: Path) -> str:
    """Of all that decides, besides its options, what a checkpoint or a bundle holds: MADE_BY, and Python's version."""
    files = {file for pattern in MADE_BY for file in root.glob(pattern) if file.is_file()}
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for file in sorted(file for file in files if "__pycache__" not in file.parts):
        digest.update(f"{file.relative_to(root)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def generation(cache: Path, key: str) -> Path:
    """The folder of `key` under `cache`. Of the others, those that were used last stay; GENERATIONS in all.

    This process holds it until it ends, and what any process holds is not removed.
    """
    folder = cache / key
    with _lock(cache / "generations"):
        folder.mkdir(exist_ok=True)
        held = os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT)  # for as long as this process lives
        fcntl.flock(held, fcntl.LOCK_SH)
        os.utime(held)
        others = [file for file in cache.glob(f"*/{IN_USE}") if file.parent != folder]
        for file in sorted(others, key=lambda file: -file.stat().st_mtime)[GENERATIONS - 1 :]:
            with file.open("r+") as other:
                try:
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(file.parent)
    return folder


def checkpoint(root: Path, **options: Any) -> Path:
    """A checkpoint made with these options of its preset's maker (examples/random_checkpoint.py), under `root`."""
    folder = root / f"checkpoint-{_key(options)}"
    with _lock(folder):
        if not folder.exists():
            from random_checkpoint import MAKERS

            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            MAKERS[options.get("preset", "tiny")](partial, **options)
            partial.rename(folder)
    return folder


def export(root: Path, *, precision: str = "fp32", **options: Any) -> tuple[Path, Path]:
    """(checkpoint directory, bundle directory) for these options of `checkpoint`, under `root`."""
    source = checkpoint(root, **options)
    return source, _export(source, root / f"bundle-{precision}-{_key(options)}", precision)


def export_little_world(root: Path) -> Path:
    """The bundle of the model that gesso ships, under `root`."""
    return _export(LITTLE_WORLD, root / "little-world", "fp32")


def _export(source: Path, folder: Path, precision: str) -> Path:
    with _lock(folder):
        if not folder.exists():  # a bundle is visible only when it is whole
            from gesso_export.bundle.checked import unverified
            from gesso_export.checkpoint.checkpoint import open_checkpoint
            from gesso_export.export import export as export_bundle

            made = export_bundle(open_checkpoint(source, source.name), folder, precision=precision)
            assert unverified(made) is None, f"{source} is of a kind that diffusers opens"
    return folder


def _key(options: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `<path>.lock`, so that of several test processes one makes the artefact and the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
