"""A bundle of each family, as the server opens it and as it is on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import bundles
from gesso_backend.kinds import open_bundle
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.settings import Settings
from gesso_client.models import ModelInfo

ROOT = Path(__file__).parents[2]
# Parameters that are no option: the client makes them of the pictures.
OF_PICTURES = {"image_sha256", "mask_image_sha256", "picture_size", "picture_offset"}


# One of each family; the first is the one that tests/export and tests/backend look at too.
FAMILIES: dict[str, dict[str, Any]] = {
    "stable-diffusion": {},
    "stable-diffusion-xl": {"preset": "sdxl-tiny", "in_channels": 9},
    "flux": {"preset": "flux-tiny", "variant": "fill"},
}


def opened(folder: Path) -> DiffusionBundle:
    bundle = open_bundle(folder)
    assert isinstance(bundle, DiffusionBundle)
    return bundle


@pytest.fixture(scope="session", params=FAMILIES)
def exported(request: pytest.FixtureRequest, gesso_bundles: Path) -> Path:
    return bundles.export(gesso_bundles, **FAMILIES[request.param])[1]


@pytest.fixture(scope="session")
def bundle(exported: Path) -> DiffusionBundle:
    return opened(exported)


@pytest.fixture(scope="session")
def everything(gesso_bundles: Path) -> dict[str, DiffusionBundle]:
    """For each parameter there is, a bundle that takes it."""
    takers = {}
    for options in reversed(FAMILIES.values()):
        bundle = opened(bundles.export(gesso_bundles, **options)[1])
        takers |= dict.fromkeys(bundle.parameters, bundle)
    return takers


@pytest.fixture(scope="session")
def info(bundle: DiffusionBundle) -> ModelInfo:
    """What the client makes of what the server says about it."""
    return ModelInfo.parse("inpaint", json.dumps(bundle.describe(Settings().limits)))


@pytest.fixture(scope="session", params=["inpaint", "inpaint_once"])
def config(request: pytest.FixtureRequest) -> model_config_pb2.ModelConfig:
    """A committed config.pbtxt, parsed as Triton parses it: an unknown field is an error."""
    text = (ROOT / "model_repository" / request.param / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig(name=request.param))
