"""gesso-export --precision int8: what it writes, and what it refuses to write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import bundles
from gesso_export import families
from gesso_export.bundle import manifest
from gesso_export.errors import CheckpointError, VerificationError
from gesso_export.precision import int8
from gesso_export.precision.int8 import Quality
from gesso_export.published.models import MODELS

Command = Callable[..., tuple[int, str]]
WIDE = {**bundles.MICRO, "unet_channels": [32, 64]}  # enough weights for what stands beside them not to matter


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small checkpoint, let through the gate: its random weights are too rough for it."""
    with pytest.MonkeyPatch.context() as gate:
        gate.setattr(int8, "MAX_NOISE_ERROR", 0.5)
        gate.setattr(int8, "MIN_PSNR", 10.0)
        return bundles.export(tmp_path_factory.mktemp("int8"), precision="int8", **WIDE)[1]


def test_the_denoiser_is_int8_and_the_rest_is_not(int8_bundle: Path) -> None:
    """A bundle that says int8 and computes in float32 would cost its accuracy and give nothing."""
    networks = manifest.read(int8_bundle).networks
    assert {name: network.precision for name, network in networks.items()} == {
        "text_encoder": "fp32",
        "unet": "int8",
        "vae_encoder": "fp32",
        "vae_decoder": "fp32",
    }
    graph = onnx.load(int8_bundle / "unet.onnx", load_external_data=False).graph
    stored = {weight.name: weight.data_type for weight in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            weight = producers[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert stored[weight.input[0]] == onnx.TensorProto.INT8


def test_the_weights_take_a_quarter(int8_bundle: Path, gesso_bundles: Path) -> None:
    """Left over beside the new weights, the float32 ones would be shipped too."""
    full = (bundles.checkpoint(gesso_bundles, **WIDE) / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert (int8_bundle / "unet.onnx.data").stat().st_size < 0.4 * full
    assert {file.name for file in int8_bundle.glob("*unet*")} == {"unet.onnx", "unet.onnx.data"}
    assert not list(int8_bundle.glob(".*"))


def test_it_verifies_and_every_user_may_read_it(int8_bundle: Path, gesso_export: Command) -> None:
    """ONNX Runtime's quantizer writes weights that only their owner can read: a server is another user."""
    assert gesso_export("verify", int8_bundle)[0] == 0
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in int8_bundle.iterdir() if file.is_file())


def test_a_row_does_not_depend_on_its_batch(int8_bundle: Path) -> None:
    """With ranges taken from each batch as it comes (dynamic quantization) it does, by 1e-2 of a standard deviation."""
    session = onnxruntime.InferenceSession(int8_bundle / "unet.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    shapes = {port.name: port.shape for port in session.get_inputs()}
    inputs = {
        "sample": rng.standard_normal((4, shapes["sample"][1], 16, 16)).astype(np.float32),
        "timestep": np.array([900, 600, 300, 0], np.float32),
        "encoder_hidden_states": rng.standard_normal((4, 77, shapes["encoder_hidden_states"][2])).astype(np.float32),
    }
    inputs["sample"][3] *= 100  # a neighbour far outside all ranges
    together = session.run(None, inputs)[0]
    for row in range(4):
        alone = session.run(None, {name: values[row : row + 1] for name, values in inputs.items()})[0]
        assert np.array_equal(alone[0], together[row])


def test_a_model_that_fails_the_gate_is_not_written(
    micro: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MIN_PSNR", 200.0)
    code, output = gesso_export(micro, "--out", tmp_path / "out", "--precision", "int8")
    assert code == 1
    assert "int8: a picture is" in output
    assert "200 dB are asked for" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("quality", "named"),
    [
        (Quality(noise_error=0.2, psnr=40), "0.200 standard deviations"),
        (Quality(noise_error=float("nan"), psnr=40), "nan standard deviations"),
        (Quality(noise_error=0.01, psnr=12.34), "12.3 dB"),
        (Quality(noise_error=0.01, psnr=float("nan")), "nan dB"),
    ],
)
def test_the_gate_names_the_number_that_is_not_good_enough(quality: Quality, named: str) -> None:
    """A network that answers with NaN is above no bound and below none."""
    with pytest.raises(VerificationError, match=named):
        quality.check()


def test_the_gate_lets_good_pictures_pass() -> None:
    Quality(noise_error=0.05, psnr=33).check()


def test_psnr_is_that_of_the_painted_pixels() -> None:
    """The rest of the canvas is equal by construction, and would lift every number above the gate."""
    picture = np.zeros((3, 8, 8), np.float32)
    picture[:, 2:4, 2:4] = 0.5
    assert int8.psnr(picture, picture * np.float32(0.8)) == pytest.approx(10 * np.log10(4 / 0.01), abs=1e-3)


def test_other_families_are_refused_before_anything_is_done() -> None:
    flux = families.describe(MODELS["flux-dev"].checkpoint)
    with pytest.raises(CheckpointError, match="--precision int8 is for stable-diffusion; this checkpoint is flux"):
        int8.PRECISION.check(flux)


@pytest.mark.slow
def test_the_shipped_model_passes_its_gate(tmp_path: Path, gesso_export: Command) -> None:
    """The gate is set by the model that gesso ships; a quantizer that got worse must be noticed there."""
    code, output = gesso_export(bundles.LITTLE_WORLD, "--out", tmp_path / "out", "--precision", "int8")
    assert code == 0, output
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["networks"]["unet"]["precision"] == "int8"
