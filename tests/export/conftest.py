"""The two bundles this folder looks at, each exported once per session, and a checkpoint to spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import bundles

# The plain one everything else is compared with, and one that differs from it in every way at once.
OTHER = {"in_channels": 4, "prediction_type": "v_prediction", "openclip": True, "half": True, **bundles.MICRO}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Other test processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle): 9 channels, epsilon, CLIP, VAE factor 8."""
    return bundles.export(bundles.shared_root(tmp_path_factory))


@pytest.fixture(scope="session")
def bundle(exported: tuple[Path, Path]) -> Path:
    return exported[1]


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle): 4 channels, v-prediction, OpenCLIP, VAE factor 2, stored in half precision."""
    return bundles.export(bundles.shared_root(tmp_path_factory), **OTHER)


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint; not to be changed."""
    return bundles.checkpoint(bundles.shared_root(tmp_path_factory), **bundles.MICRO)


@pytest.fixture
def spoil(micro: Path, tmp_path: Path) -> Path:
    """A copy of the smallest checkpoint, to change at will."""
    return Path(shutil.copytree(micro, tmp_path / "checkpoint"))


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to damage at will."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


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
