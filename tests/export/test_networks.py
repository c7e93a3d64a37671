"""Every exported network against the model it came from, loaded and called as diffusers does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer

# In standard deviations of the output: above what was measured (6e-5), below what a wrong layer would give.
TOLERANCE = 5e-4
LATENT_SIZES = [(1, 32, 32), (1, 17, 33), (3, 7, 9), (5, 16, 8), (2, 1, 1)]


def engine(bundle: Path, network: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(bundle / f"{network}.onnx", providers=["CPUExecutionProvider"])


def error(actual: NDArray[np.float32], expected: torch.Tensor) -> float:
    reference = expected.numpy()
    assert actual.shape == reference.shape
    assert actual.dtype == np.float32
    return float(np.abs(actual - reference).max() / reference.std())


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet(exported: tuple[Path, Path]) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(exported[0] / "unet").eval()


@pytest.fixture(scope="module")
def vae(exported: tuple[Path, Path]) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(exported[0] / "vae").eval()


@pytest.mark.parametrize(("batch", "height", "width"), LATENT_SIZES)
def test_unet_is_diffusers_unet_at_sizes_never_traced(
    bundle: Path, unet: UNet2DConditionModel, batch: int, height: int, width: int
) -> None:
    """Sizes that are no multiple of 2^levels fail, or are silently wrong, in graphs that upsample by a fixed factor."""
    sample, text = gaussian(batch, 9, height, width), gaussian(batch, 77, 32, seed=1)
    timestep = torch.linspace(0.25, 999.0, batch)
    with torch.inference_mode():
        expected = unet(sample, timestep, text).sample
    feed = {"sample": sample.numpy(), "timestep": timestep.numpy(), "encoder_hidden_states": text.numpy()}
    assert error(engine(bundle, "unet").run(None, feed)[0], expected) < TOLERANCE


def test_unet_rows_have_timesteps_of_their_own(bundle: Path, unet: UNet2DConditionModel) -> None:
    """Step-level batching is impossible with one timestep per batch, which is how others export this network."""
    sample, text = gaussian(1, 9, 8, 8), gaussian(1, 77, 32, seed=1)
    timesteps = torch.tensor([999.0, 500.5, 0.0])
    feed = {
        "sample": sample.expand(3, -1, -1, -1).numpy(),
        "timestep": timesteps.numpy(),
        "encoder_hidden_states": text.expand(3, -1, -1).numpy(),
    }
    rows = engine(bundle, "unet").run(None, feed)[0]
    assert not np.allclose(rows[0], rows[1], atol=1e-2)
    for row, timestep in zip(rows, timesteps, strict=True):
        with torch.inference_mode():
            expected = unet(sample, timestep, text).sample
        assert error(row[None], expected) < TOLERANCE


@pytest.mark.parametrize(("batch", "height", "width"), LATENT_SIZES)
def test_vae_moments_are_diffusers_moments(
    bundle: Path, vae: AutoencoderKL, batch: int, height: int, width: int
) -> None:
    """A graph that samples inside cannot take the request's own noise; one that clamps logvar is not the moments."""
    image = gaussian(batch, 3, 8 * height, 8 * width).clamp(-1, 1)
    with torch.inference_mode():
        expected = vae.encode(image).latent_dist.parameters
    moments = engine(bundle, "vae_encoder").run(None, {"sample": image.numpy()})[0]
    assert moments.shape == (batch, 8, height, width)
    # Means and logvars have scales of their own, so each is held to its own.
    assert error(moments[:, :4], expected[:, :4]) < TOLERANCE
    assert np.abs(moments[:, 4:] - expected[:, 4:].numpy()).max() < TOLERANCE


@pytest.mark.parametrize(("batch", "height", "width"), LATENT_SIZES)
def test_vae_decodes_as_diffusers_does(bundle: Path, vae: AutoencoderKL, batch: int, height: int, width: int) -> None:
    """Latents are given unscaled and the picture comes back unclamped, as vae.decode does."""
    latents = gaussian(batch, 4, height, width) / vae.config.scaling_factor
    with torch.inference_mode():
        expected = vae.decode(latents).sample
    image = engine(bundle, "vae_decoder").run(None, {"latents": latents.numpy()})[0]
    assert image.shape == (batch, 3, 8 * height, 8 * width)
    assert error(image, expected) < TOLERANCE


@pytest.mark.parametrize("prompts", [["a cat on a chair"], ["", "two", "three " * 40]])
def test_text_encoder_gives_prompt_embeds(exported: tuple[Path, Path], prompts: list[str]) -> None:
    checkpoint, bundle = exported
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    model = CLIPTextModel.from_pretrained(checkpoint / "text_encoder").eval()
    with torch.inference_mode():
        expected = model(ids)[0]
        skipping = model.final_layer_norm(model(ids, output_hidden_states=True).hidden_states[-2])  # as diffusers does
    for clip_skip, embeddings in ((0, expected), (1, skipping)):
        feed = {"input_ids": ids.numpy(), "clip_skip": np.full(len(prompts), clip_skip)}
        assert error(engine(bundle, "text_encoder").run(None, feed)[0], embeddings) < TOLERANCE
    assert error(skipping.numpy(), expected) > TOLERANCE


def test_half_stored_openclip_v_prediction_checkpoint_is_exact_too(other: tuple[Path, Path]) -> None:
    """Weights stored in half precision must be upcast and then computed with, not the other way round."""
    checkpoint, bundle = other
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet", dtype=torch.float32).eval()
    text_encoder = CLIPTextModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32).eval()
    sample, text, ids = gaussian(2, 4, 5, 11), gaussian(2, 77, 32, seed=1), torch.randint(0, 49408, (2, 77))
    timestep = torch.tensor([1.0, 801.5])
    with torch.inference_mode():
        noise_pred, prompt_embeds = unet(sample, timestep, text).sample, text_encoder(ids)[0]
    feed = {"sample": sample.numpy(), "timestep": timestep.numpy(), "encoder_hidden_states": text.numpy()}
    assert error(engine(bundle, "unet").run(None, feed)[0], noise_pred) < TOLERANCE
    feed = {"input_ids": ids.numpy(), "clip_skip": np.zeros(2, np.int64)}
    assert error(engine(bundle, "text_encoder").run(None, feed)[0], prompt_embeds) < TOLERANCE


@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_graphs_carry_the_manifests_axis_names_and_no_trace_of_this_machine(bundle: Path, network: str) -> None:
    """torch names axes s77 and leaves the stack trace of the exporting machine on every node."""
    from gesso_export.bundle import manifest

    spec = manifest.read(bundle).networks[network]
    model = onnx.load(bundle / spec.file, load_external_data=False)
    for values, ports in ((model.graph.input, spec.inputs), (model.graph.output, spec.outputs)):
        found = {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in values
        }
        assert found == {name: port.shape for name, port in ports.items()}
    assert [opset.version for opset in model.opset_import if not opset.domain] == [20]
    raw = (bundle / spec.file).read_bytes()
    assert b".py" not in raw
    assert str(Path.home()).encode() not in raw
