"""bundle.json: what is in it, and that it is read strictly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gesso_export.bundle import manifest, preview
from gesso_export.bundle.manifest import PreviewRgb, SizeSpec, VaeSpec
from gesso_export.bundle.parameters import SAMPLERS, common_parameters, default_sampler
from gesso_export.errors import CheckpointError, ManifestError

DOCUMENT = Path(__file__).parents[2] / "docs" / "bundle.md"


def load(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return content


def test_manifest_has_the_keys_and_parameters_docs_bundle_md_shows(bundle: Path) -> None:
    """The backend is written from that page; a key that drifts on one side refuses every bundle."""
    example = re.search(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert example is not None
    documented, found = json.loads(example.group(1)), load(bundle)
    assert list(found) == list(documented)
    for key in ("schema_version", "kind", "family", "denoiser", "native_inpainting"):
        assert found[key] == documented[key], key
    for section in ("vae", "size", "tokenizers", "preview_rgb", "source", "exporter", "task_defaults"):
        assert found[section].keys() == documented[section].keys(), section
    for name, network in documented["networks"].items():
        assert found["networks"][name].keys() == network.keys()
        for side in ("inputs", "outputs"):
            shapes = json.dumps(network[side]).replace("768", "32")
            assert found["networks"][name][side] == json.loads(shapes)
    own = {"height": {"default": 256}, "width": {"default": 256}, "clip_skip": {"maximum": 1}}
    own |= {"scheduler": {"choices": list(SAMPLERS)}}  # the page shows the first of them
    assert documented["parameters"]["scheduler"]["choices"][:-1] == list(SAMPLERS[:3])
    expected = {name: {**parameter, **own.get(name, {})} for name, parameter in documented["parameters"].items()}
    assert found["parameters"] == expected


def test_manifest_of_a_different_checkpoint_tells_the_difference(other: tuple[Path, Path]) -> None:
    checkpoint, bundle = other
    found = load(bundle)
    assert found["networks"]["unet"]["inputs"]["sample"]["shape"] == ["batch", 4, "latent_height", "latent_width"]
    assert (found["kind"], found["denoiser"], found["native_inpainting"]) == ("diffusion", "unet", False)
    assert found["scheduler"]["config"] == json.loads((checkpoint / "scheduler/scheduler_config.json").read_text())
    assert found["scheduler"]["config"]["prediction_type"] == "v_prediction"
    assert found["vae"] == {"factor": 2, "latent_channels": 4, "scaling_factor": 0.18215, "shift_factor": 0.0}
    assert found["size"] == {"native": 32, "multiple": 2, "max_pixels": 1024 * 1024}
    assert found["source"] == {"checkpoint": checkpoint.name, "revision": None, "pipeline": "StableDiffusionPipeline"}


def test_every_file_but_the_manifest_is_listed(bundle: Path) -> None:
    present = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(load(bundle)["files"]) == present - {"bundle.json"}


def test_what_is_the_same_for_every_model_is_in_no_bundle(bundle: Path) -> None:
    """Guards the server's one table of its own parameters against a second home in every bundle."""
    own = {"seed", "num_images_per_prompt", "padding_mask_crop", "mask_feather", "latent_blend", "require_native",
           "preview_every"}  # fmt: skip
    assert not own & load(bundle)["parameters"].keys()


def test_reading_and_writing_a_manifest_changes_nothing(bundle: Path) -> None:
    assert manifest.dumps(manifest.read(bundle)) == (bundle / "bundle.json").read_text()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("surprise", 1, "surprise"),
        ("vae.surprise", 1, "surprise"),
        ("vae.factor", "8", "factor"),
        ("vae.factor", True, "factor"),
        ("vae", [], "vae"),
        ("networks.unet.inputs.sample.shape", ["batch", 1.5], "shape[1]"),
        ("networks.unet.file", "missing.onnx", "missing.onnx"),
        ("parameters.strength.minimum", [], "minimum"),
        ("parameters.scheduler.choices", "ddim", "choices"),
        ("networks", {}, "text_encoder"),
        ("files", {}, ".onnx"),
        ("networks.unet.inputs.sample.shape", ["batch", 9, "rows", "columns"], "networks.unet has an axis 'columns'"),
        ("schema_version", 3, "schema_version is 3, this version reads 4; export again"),
        ("schema_version", 5, "schema_version"),
        ("kind", "video", "kind is 'video'; known are diffusion"),
        ("kind", None, "kind is None"),
        ("denoiser", "transformer", "networks has no transformer"),
        ("native_inpainting", "yes", "native_inpainting"),
        ("name", None, "name"),
    ],
)
def test_a_manifest_with_a_wrong_key_or_value_is_refused_by_name(
    copied: Path, path: str, value: object, named: str
) -> None:
    content = load(copied)
    *parents, last = path.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    (copied / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=re.escape(named)):
        manifest.read(copied)


@pytest.mark.parametrize("section", ["license", "vae", "networks", "files", "denoiser", "kind"])
def test_a_manifest_without_a_key_is_refused_by_name(copied: Path, section: str) -> None:
    content = load(copied)
    del content[section]
    (copied / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=section):
        manifest.read(copied)


def test_a_manifest_may_not_name_files_outside_the_bundle(copied: Path) -> None:
    content = load(copied)
    content["files"]["../secret"] = {"sha256": "0", "bytes": 0}
    (copied / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="outside"):
        manifest.read(copied)


@pytest.mark.parametrize(
    ("scheduler", "config", "sampler"),
    [
        ("PNDMScheduler", {}, "pndm"),
        ("DDIMScheduler", {}, "ddim"),
        ("EulerDiscreteScheduler", {}, "euler"),
        ("EulerAncestralDiscreteScheduler", {}, "euler_ancestral"),
        ("DPMSolverMultistepScheduler", {}, "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "dpmpp_2m_karras"),
        ("LMSDiscreteScheduler", {}, "euler"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde"),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "euler_exponential"),
        ("EulerAncestralDiscreteScheduler", {"use_karras_sigmas": True}, "euler_ancestral"),
        ("UniPCMultistepScheduler", {"use_beta_sigmas": True}, "unipc_beta"),
        ("LCMScheduler", {}, "lcm"),
    ],
)
def test_default_sampler_follows_the_scheduler_class(scheduler: str, config: dict[str, Any], sampler: str) -> None:
    assert default_sampler(scheduler, config) == sampler


def test_a_scheduler_class_nobody_knows_is_refused_with_the_list() -> None:
    with pytest.raises(CheckpointError, match=r"FlowMatchEulerDiscreteScheduler.*PNDMScheduler"):
        default_sampler("FlowMatchEulerDiscreteScheduler", {})


@pytest.mark.parametrize("native", [16, 512, 768, 4096])
def test_bounds_of_the_sides_hold_the_native_size_and_are_multiples(native: int) -> None:
    side = common_parameters(SizeSpec(native, 8, 1), "ddim", SAMPLERS, steps=50)["height"]
    assert isinstance(side.minimum, int)
    assert isinstance(side.maximum, int)
    assert side.minimum <= native <= side.maximum
    assert side.minimum % 8 == side.maximum % 8 == 0


def test_preview_matrix_is_recovered_from_a_vae_that_is_linear() -> None:
    """Fitted in the space the UNet works in: scaled and shifted latents, not the VAE's own."""
    vae = VaeSpec(factor=4, latent_channels=4, scaling_factor=0.5, shift_factor=0.25)
    to_latents = np.random.default_rng(1).standard_normal((4, 3))
    offset = np.array([0.1, -0.2, 0.3, 0.0])

    def encode(picture: np.ndarray) -> np.ndarray:
        small = picture.reshape(1, 3, picture.shape[2] // 4, 4, picture.shape[3] // 4, 4).mean(axis=(3, 5))
        scaled = np.einsum("lc,bchw->blhw", to_latents, small) + offset[:, None, None]
        mean = scaled / vae.scaling_factor + vae.shift_factor
        return np.concatenate([mean, np.full_like(mean, -9.0)], axis=1).astype(np.float32)

    fitted = preview.fit(encode, vae)
    assert isinstance(fitted, PreviewRgb)
    assert np.allclose(to_latents.T @ np.array(fitted.matrix), np.eye(3), atol=1e-4)
    assert np.allclose(offset @ np.array(fitted.matrix) + fitted.bias, 0, atol=1e-4)
