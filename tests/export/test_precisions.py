"""The contract of a precision: a file is all that it takes to offer one, and nobody else knows one by name."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from gesso_export import export, families, precision
from gesso_export.bundle import manifest
from gesso_export.networks.network import Role
from gesso_export.precision import PRECISIONS
from gesso_export.published.models import MODELS

COARSE = """
from gesso_export.networks.network import Role
from gesso_export.precision.fp16 import Float16
from gesso_export.precision.precision import Passed


class Coarse(Float16):
    name = "coarse"
    tolerance = 0.5

    def applies(self, network):
        return network.role is Role.DENOISER

    def gate(self, draft, network):
        assert (draft.folder / draft.networks[network].file).is_file()
        assert set(draft.networks) == {each.name for each in draft.model.networks}, "all of them stand"
        return Passed(draft.networks[network], draft.cases[network], "looked at")


PRECISION = Coarse()
"""


@pytest.fixture
def coarse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a precision that is offered because a file of it is there."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "coarse.py").write_text(COARSE)
    monkeypatch.setattr(precision, "__path__", [*precision.__path__, str(folder)])
    monkeypatch.setitem(PRECISIONS, "coarse", precision.discover()["coarse"])
    return "coarse"


def test_one_file_is_a_precision(
    coarse: str, micro: Path, tmp_path: Path, gesso_export: Callable[..., tuple[int, str]]
) -> None:
    """Guards the contract: the command line, the exporter and the verifier take what it offers, gate and all."""
    code, output = gesso_export(micro, "--out", tmp_path / "bundle", "--precision", coarse)
    assert code == 0, output
    (line,) = (line for line in output.splitlines() if line.startswith(f"{'unet':13} {coarse:8}"))
    assert line.endswith("looked at")
    networks = manifest.read(tmp_path / "bundle").networks
    written = {name: network.precision for name, network in networks.items()}
    assert written == {"text_encoder": "fp32", "unet": coarse, "vae_encoder": "fp32", "vae_decoder": "fp32"}
    assert not (tmp_path / "bundle" / networks["unet"].cpu_file).exists()
    assert gesso_export("verify", tmp_path / "bundle")[0] == 0


def test_a_bundle_of_a_precision_that_is_no_more_is_refused(
    copied: Path, gesso_export: Callable[..., tuple[int, str]]
) -> None:
    """Guards against a traceback, and against a bundle that nothing is held to."""
    text = (copied / "bundle.json").read_text()
    (copied / "bundle.json").write_text(text.replace('"precision": "fp32"', '"precision": "fp12"'))
    code, output = gesso_export("verify", copied)
    assert code == 1
    assert "text_encoder is in fp12; known are fp32, fp16, int8" in output


def test_what_is_offered_and_of_what() -> None:
    """Guards int8 against networks and families it was not measured on, and VAEs that overflow against fp16."""
    assert list(PRECISIONS) == ["fp32", "fp16", "int8"]
    written: dict[str, dict[str, set[Role]]] = {}
    for name in ("sd15", "sdxl", "flux-dev"):
        networks = families.describe(MODELS[name].checkpoint).networks
        written[name] = {
            each: {network.role for network in networks if PRECISIONS[each].applies(network)} for each in PRECISIONS
        }
    every, vae = set(Role), {Role.IMAGE_ENCODER, Role.IMAGE_DECODER}
    assert written == {
        "sd15": {"fp32": every, "fp16": every, "int8": {Role.DENOISER}},
        "sdxl": {"fp32": every, "fp16": every - vae, "int8": {Role.DENOISER}},
        "flux-dev": {"fp32": every, "fp16": every - vae, "int8": {Role.DENOISER}},
    }


def test_the_exporter_knows_no_network_and_no_precision_by_name() -> None:
    """Guards the next family and the next precision against an `if` for each."""
    tree = ast.parse(Path(export.__file__).read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    networks = {network.name for model in MODELS.values() for network in families.describe(model.checkpoint).networks}
    ports = {"timestep", "sample", "noise_pred", "latents", "moments"}
    assert not texts & (networks | ports | PRECISIONS.keys())
