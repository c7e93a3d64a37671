"""The names of free axes: the same in every network of every family, and written down in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gesso_export
from gesso_export import families
from gesso_export.bundle.tensor import AXES, BATCH, HEIGHT, LATENT_HEIGHT, LATENT_WIDTH, TOKENS, WIDTH, free_axes
from gesso_export.networks.network import Network, Role
from gesso_export.published.models import MODELS

SOURCE = Path(gesso_export.__file__).parent
LATENT, PIXELS = {LATENT_HEIGHT, LATENT_WIDTH}, {HEIGHT, WIDTH}


def axes(network: Network) -> set[str]:
    return free_axes([*network.inputs.values(), *network.outputs.values()])


@pytest.mark.parametrize("model", MODELS)
def test_an_axis_says_what_it_measures_in_every_network(model: str) -> None:
    """Guards engines and servers, which look at axes alone: a height was once of latents here, of pixels there."""
    expected = {
        Role.TEXT_ENCODER: set(),
        Role.DENOISER: {TOKENS, *LATENT},
        Role.IMAGE_ENCODER: LATENT | PIXELS,
        Role.IMAGE_DECODER: LATENT | PIXELS,
    }
    for network in families.describe(MODELS[model].checkpoint).networks:
        for port in [*network.inputs.values(), *network.outputs.values()]:
            assert port.shape[0] == BATCH
        found = axes(network) - {BATCH}
        if network.role is Role.TEXT_ENCODER:
            found -= {TOKENS}  # T5's
        assert found == expected[network.role], network.name


def test_every_case_has_a_size_for_every_axis() -> None:
    """Guards the sizes that networks are tried out at against an axis that is added."""
    for model in MODELS.values():
        for network in families.describe(model.checkpoint).networks:
            assert all(set(case) == set(AXES) for case in network.cases)


def test_the_names_are_written_down_once() -> None:
    """Guards against a second spelling. `height` and `width` are also what a request calls its picture's sides."""
    for file in sorted(SOURCE.rglob("*.py")):
        if file != SOURCE / "bundle" / "tensor.py":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            assert not texts & {LATENT_HEIGHT, LATENT_WIDTH}, file
            if "families" in file.parts or "proof" in file.parts or "networks" in file.parts:
                assert not texts & set(AXES), file
