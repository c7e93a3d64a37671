"""The two bundles this folder looks at, each exported anew in every run, and a checkpoint to spoil."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bundles


@pytest.fixture(scope="session")
def exported(fresh_bundles: Path) -> tuple[Path, Path]:
    """(checkpoint, bundle): 9 channels, epsilon, CLIP, VAE factor 8."""
    return bundles.export(fresh_bundles)


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, Path]) -> Path:
    return exported[1]


@pytest.fixture(scope="session")
def other(fresh_bundles: Path) -> tuple[Path, Path]:
    """(checkpoint, bundle): 4 channels, v-prediction, OpenCLIP, VAE factor 2, stored in half precision."""
    return bundles.export(fresh_bundles, **bundles.OTHER, half=True)


@pytest.fixture(scope="session")
def micro(gesso_bundles: Path) -> Path:
    """The smallest checkpoint; not to be changed."""
    return bundles.checkpoint(gesso_bundles, **bundles.MICRO)


@pytest.fixture
def spoil(micro: Path, tmp_path: Path) -> Path:
    """A copy of the smallest checkpoint, to change at will."""
    return Path(shutil.copytree(micro, tmp_path / "checkpoint"))


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to damage at will."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def subject(gesso_bundles: Path) -> Callable[[str], Any]:
    """By the names of tests/subjects.py: (checkpoint, bundle, what diffusers paints), made once; not to be changed."""
    import subjects  # and torch

    return functools.cache(functools.partial(subjects.made, gesso_bundles))


@pytest.fixture
def gesso_export(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line; returns its exit code and what it printed."""
    from gesso_export.cli import main

    def command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command
