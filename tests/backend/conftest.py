"""Real bundles, opened once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

import bundles
from backend.real import Real


@pytest.fixture(scope="session")
def plain(gesso_bundles: Path) -> Real:
    """9 channels, epsilon, CLIP, VAE factor 8."""
    return Real.open(bundles.export(gesso_bundles)[1])


@pytest.fixture(scope="session")
def other(gesso_bundles: Path) -> Real:
    """4 channels, v-prediction, OpenCLIP, VAE factor 2."""
    return Real.open(bundles.export(gesso_bundles, **bundles.OTHER)[1])


@pytest.fixture(scope="session", params=["plain", "other"])
def real(request: pytest.FixtureRequest, gesso_bundles: Path) -> Real:
    """Either of them."""
    opened: Real = request.getfixturevalue(request.param)
    return opened
