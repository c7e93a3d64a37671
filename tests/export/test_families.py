"""SDXL and FLUX in half precision, and what is refused of them. Their values in fp32 are compared in tests/e2e."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import bundles
from gesso_export import families
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.errors import CheckpointError

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "sdxl": {"preset": "sdxl-tiny", "in_channels": 9, "half": True},
    "flux": {"preset": "flux-tiny", "variant": "fill", "half": True},
}


@pytest.fixture(scope="module")
def root(fresh_bundles: Path) -> Path:
    return fresh_bundles


@pytest.mark.slow  # two exports of five networks each
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_half_precision_leaves_a_vae_that_overflows_in_full(name: str, root: Path) -> None:
    """Guards pictures of NaN: diffusers upcasts these VAEs too. Export has verified every value by then."""
    _, bundle = bundles.export(root, precision="fp16", **CHECKPOINTS[name])
    networks = json.loads((bundle / "bundle.json").read_text())["networks"]
    full = {network for network, spec in networks.items() if spec["precision"] == "fp32"}
    assert full == {"vae_encoder", "vae_decoder"}
    for network, spec in networks.items():
        graph = onnx.load(bundle / spec["file"], load_external_data=False).graph
        halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
        assert bool(halves) is (network not in full), network


@pytest.mark.slow
def test_t5_in_half_precision_survives_what_overflows_in_it(root: Path) -> None:
    """Guards the layers transformers keeps in float32, with activations as large as T5 XXL's are."""
    _, bundle = bundles.export(root, precision="fp16", **CHECKPOINTS["flux"])
    graph = onnx.load(bundle / "text_encoder_2.onnx", load_external_data=False).graph
    full = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    ]
    assert len(full) >= 2, "a wo of each of the two layers"
    session = onnxruntime.InferenceSession(bundle / "text_encoder_2.onnx")
    (answer,) = session.run(None, {"input_ids": np.arange(24, dtype=np.int64).reshape(2, 12)})
    assert np.isfinite(answer).all()


REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "the refiner": ("sdxl", "model_index.json", {"requires_aesthetics_score": True}, "the SDXL refiner"),
    "another addition": ("sdxl", "unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type is"),
    "other time ids": ("sdxl", "unet/config.json", {"addition_time_embed_dim": 4}, "projection_class_embeddings_input"),
    "another text width": ("sdxl", "unet/config.json", {"cross_attention_dim": 7}, "cross_attention_dim is 7"),
    "control channels": ("flux", "transformer/config.json", {"in_channels": 128}, "in_channels is 32"),
    "another T5": ("flux", "transformer/config.json", {"joint_attention_dim": 5}, "joint_attention_dim is 5"),
    "a part of another class": (
        "flux", "model_index.json", {"text_encoder_2": ["transformers", "UMT5EncoderModel"]}, "UMT5EncoderModel",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str, root: Path, tmp_path: Path) -> None:
    """Guards against a bundle that the backend would feed wrongly."""
    name, file, changes, message = REFUSED[case]
    source = bundles.checkpoint(root, **CHECKPOINTS[name])
    for path in source.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).unlink()
    (tmp_path / file).write_text(json.dumps(content | changes))
    with pytest.raises(CheckpointError, match=message):
        families.describe(open_checkpoint(tmp_path, name))


def test_a_turbo_model_needs_no_guidance_by_default(root: Path) -> None:
    """Guards the one sign of a distilled SDXL: its scheduler."""
    checkpoint = bundles.checkpoint(root, preset="sdxl-tiny", in_channels=4, turbo=True)
    parameters = families.describe(open_checkpoint(checkpoint, "turbo")).parameters
    assert (parameters["guidance_scale"].default, parameters["num_inference_steps"].default) == (0.0, 1)
    assert parameters["scheduler"].default == "euler_ancestral"


def test_packing_in_the_graph_is_that_of_the_pipeline() -> None:
    """Guards the order of the four latents of a token."""
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 6, 8)
    ours = torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
    theirs = FluxPipeline._pack_latents(latents, 2, 16, 6, 8)
    assert torch.equal(ours, theirs)
