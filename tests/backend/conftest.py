"""Real bundles, exported once per session."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings

import bundles
from backend.real import Real

# The options of tests/export's two bundles, so that a session exports each of them once.
PLAIN: dict[str, Any] = {}
OTHER = {"in_channels": 4, "prediction_type": "v_prediction", "openclip": True, "half": True, **bundles.MICRO}


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """9 channels, epsilon, CLIP, VAE factor 8."""
    return Real.open(bundles.export(bundles.shared_root(tmp_path_factory), **PLAIN)[1])


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """4 channels, v-prediction, OpenCLIP, VAE factor 2."""
    return Real.open(bundles.export(bundles.shared_root(tmp_path_factory), **OTHER)[1])


@pytest.fixture(scope="session", params=["plain", "other"])
def real(request: pytest.FixtureRequest) -> Real:
    """Either of them."""
    opened: Real = request.getfixturevalue(request.param)
    return opened


# Reproducible, and indifferent to how busy the machine is.
settings.register_profile("gesso", derandomize=True, deadline=None)
settings.load_profile("gesso")
