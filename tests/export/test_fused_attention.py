"""The second graph of a network: attention as one operator, on the same weights, with the same answers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

from gesso_export.bundle import manifest
from gesso_export.graph import attention

Command = Callable[..., tuple[int, str]]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def answer(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def inputs(path: Path, side: tuple[int, int], rows: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = {port.name: port.shape for port in session.get_inputs()}
    return {
        "sample": rng.standard_normal((rows, shapes["sample"][1], *side)).astype(np.float32),
        "timestep": np.linspace(0, 900, rows, dtype=np.float32),
        "encoder_hidden_states": rng.standard_normal((rows, 154, shapes["encoder_hidden_states"][2])).astype("f"),
    }


def test_every_attention_of_the_denoiser_is_one_operator(bundle: Path) -> None:
    """A pattern that torch writes otherwise in its next release would silently be left as it is."""
    written, fused = operators(bundle / "unet.onnx"), operators(bundle / "unet.cpu.onnx")
    assert fused["MultiHeadAttention"] == written["Softmax"] > 0
    assert fused["Softmax"] == written["MultiHeadAttention"] == 0


def test_causal_attention_is_left_alone(bundle: Path) -> None:
    """The text encoder's mask would be lost."""
    assert operators(bundle / "text_encoder.onnx")["Softmax"] > 0
    assert attention.fuse(onnx_ir.load(bundle / "text_encoder.onnx")) == 0


def test_the_denoiser_alone_has_a_second_graph(bundle: Path) -> None:
    assert [file.name for file in bundle.glob("*.cpu.onnx")] == ["unet.cpu.onnx"]


@pytest.mark.parametrize("side", [(16, 16), (7, 9), (40, 24)])
def test_both_graphs_answer_alike_at_sizes_never_traced(bundle: Path, side: tuple[int, int]) -> None:
    asked = inputs(bundle / "unet.onnx", side)
    expected, found = answer(bundle / "unet.onnx", asked), answer(bundle / "unet.cpu.onnx", asked)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_a_row_does_not_depend_on_its_batch(bundle: Path) -> None:
    asked = inputs(bundle / "unet.onnx", (32, 32), rows=4)
    together = answer(bundle / "unet.cpu.onnx", asked)
    for row in range(4):
        alone = answer(bundle / "unet.cpu.onnx", {name: values[row : row + 1] for name, values in asked.items()})
        assert np.array_equal(alone[0], together[row])


def test_the_weights_are_not_written_twice(bundle: Path) -> None:
    files = manifest.read(bundle).files
    assert "unet.cpu.onnx" in files
    assert {name for name in files if name.startswith("unet") and name.endswith(".data")} == {"unet.onnx.data"}
    assert files["unet.cpu.onnx"].bytes < 0.2 * files["unet.onnx.data"].bytes


def test_wrong_values_of_the_second_graph_are_found(copied: Path, gesso_export: Command) -> None:
    """It is the one that a CPU runs, so verifying the other alone would prove nothing."""
    model = onnx.load(copied / "unet.cpu.onnx", load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MultiHeadAttention" and attribute.name == "scale":
                attribute.f *= 2
    onnx.save(model, copied / "unet.cpu.onnx")
    content = json.loads((copied / "bundle.json").read_text())
    raw = (copied / "unet.cpu.onnx").read_bytes()
    content["files"]["unet.cpu.onnx"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (copied / "bundle.json").write_text(json.dumps(content))
    code, output = gesso_export("verify", copied)
    assert code == 1
    assert "unet: noise_pred is off" in output


def test_a_bundle_without_second_graphs_verifies(copied: Path, gesso_export: Command) -> None:
    """Bundles that were exported before there were any."""
    content = json.loads((copied / "bundle.json").read_text())
    for file in copied.glob("*.cpu.onnx"):
        file.unlink()
        del content["files"][file.name]
    (copied / "bundle.json").write_text(json.dumps(content))
    assert gesso_export("verify", copied)[0] == 0


def test_attention_that_is_used_in_between_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    """Someone who reads the probabilities would lose them."""
    shutil.copy(bundle / "vae_decoder.onnx", tmp_path)
    shutil.copy(bundle / "vae_decoder.onnx.data", tmp_path)
    model = onnx_ir.load(tmp_path / "vae_decoder.onnx")
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    model.graph.outputs.append(softmax.outputs[0])
    assert attention.fuse(model) == 0
