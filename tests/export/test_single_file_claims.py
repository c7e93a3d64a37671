"""What a single file says besides its shapes, and what its own contents call for: layers, prediction, stray tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import original_layout
from gesso_export import families
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.checkpoint.claims import of_file
from gesso_export.errors import CheckpointError
from gesso_export.examination import examine
from gesso_export.networks.module import run
from gesso_export.single_file import text_encoders
from gesso_export.single_file.convert import convert
from gesso_export.single_file.detect import detect
from gesso_export.single_file.header import read_shapes
from gesso_export.source import Wanted, opened
from original_layout import OPENCLIP, SDXL_OPENCLIP, UNET, VAE, made

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def root(fresh_bundles: Path) -> Path:
    return fresh_bundles


def changed(file: Path, out: Path, change: Change, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.contiguous() for key, value in change(load_file(file)).items()}, out, metadata)
    return out


def same(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors


def used_layers_only(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As diffusers' convert_diffusers_to_original_stable_diffusion.py writes Stable Diffusion 2: from the directory."""
    last = max(int(key.split(".")[4]) for key in tensors if key.startswith(f"{OPENCLIP}transformer."))
    dropped = (f"{OPENCLIP}transformer.resblocks.{last}.", f"{OPENCLIP}text_projection", f"{OPENCLIP}logit_scale")
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(dropped)}


def answers(checkpoint: Path, name: str) -> Any:
    model = families.describe(open_checkpoint(checkpoint, "x"))
    (network,) = (network for network in model.networks if network.name == name)
    return run(network.load(), network.draw_inputs(0))[0]


@pytest.mark.parametrize("change", [same, used_layers_only])
def test_the_layers_of_stable_diffusion_2_that_are_used(change: Change, root: Path, tmp_path: Path) -> None:
    """Nerogar/OneTrainer#915: of a file with only the layers that are used, the last of those was dropped."""
    folder, file = made(root, "sd2")
    convert(changed(file, tmp_path / "sd2.safetensors", change), tmp_path / "ours", "v_prediction")
    assert (answers(tmp_path / "ours", "text_encoder") == answers(folder, "text_encoder")).all()


@pytest.mark.parametrize(("layers", "used"), [(24, 23), (23, 23), (22, None), (25, None)])
@pytest.mark.parametrize("projected", [True, False])
def test_openclip_as_published_is_told_by_its_number_of_layers(layers: int, used: int | None, projected: bool) -> None:
    """At the published width a projection says nothing: some tools write one without the layer before it."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (49408, 1024),
        "positional_embedding": (77, 1024),
        **{f"transformer.resblocks.{i}.mlp.c_fc.weight": (4096, 1024) for i in range(layers)},
        **({"text_projection": (1024, 1024)} if projected else {}),
    }
    if used is None:
        with pytest.raises(CheckpointError, match=f"has {layers} layers of 1024 channels; all are 24, those used 23"):
            text_encoders.openclip(shapes, OPENCLIP)
    else:
        assert text_encoders.openclip(shapes, OPENCLIP).config["num_hidden_layers"] == used


def test_text_encoders_that_are_read_from_their_end_are_whole() -> None:
    """SDXL takes the last layer but one of both, so that one that lost its last would be read one layer too early."""
    clip = {
        "text_model.embeddings.token_embedding.weight": (49408, 768),
        "text_model.embeddings.position_embedding.weight": (77, 768),
        **{f"text_model.encoder.layers.{i}.mlp.fc1.weight": (3072, 768) for i in range(11)},
    }
    with pytest.raises(CheckpointError, match="has 11 layers of 768 channels; as published it has 12"):
        text_encoders.clip(clip, "")
    second = {
        "token_embedding.weight": (49408, 1280),
        **{f"transformer.resblocks.{i}.mlp.c_fc.weight": (5120, 1280) for i in range(31)},
    }
    with pytest.raises(CheckpointError, match="has 31 layers of 1280 channels; as published it has 32"):
        text_encoders.openclip_with_projection(second, "")


def turned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    projection = tensors.pop(f"{SDXL_OPENCLIP}text_projection")
    return {**tensors, f"{SDXL_OPENCLIP}text_projection.weight": projection.T}


def strayed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stray = torch.zeros(4)
    names = (
        "lora_unet.alpha",
        f"{UNET}middle_block.1.proj_in.lora_down.weight",
        "model_ema.decay",
        "model_ema.diffusion_modelinput_blocks00weight",
        "alphas_cumprod",
        f"{VAE}loss.logvar",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.0.transformer.text_projection.weight",
    )
    return {**tensors, **{name: stray.clone() for name in names}}


def unnamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}


@pytest.mark.parametrize("change", [turned, strayed, unnamed])
def test_sdxl_files_are_read_as_diffusers_reads_them(change: Change, root: Path, tmp_path: Path) -> None:
    """huggingface/diffusers#6934: `text_projection.weight`, as diffusers' own script writes it, and tensors besides."""
    folder, file = made(root, "sdxl")
    convert(changed(file, tmp_path / "sdxl.safetensors", change), tmp_path / "ours")
    assert examine(open_checkpoint(tmp_path / "ours", "x")).refused == []
    for name in ("text_encoder", "text_encoder_2", "unet"):
        assert (answers(tmp_path / "ours", name) == answers(folder, name)).all()


def test_what_lcms_unet_takes_is_refused_by_name(root: Path) -> None:
    """A UNet that was distilled with its guidance paints something else without it; it was dropped in silence."""
    shapes = {**read_shapes(made(root, "sd1")[1]), f"{UNET}time_embed.cond_proj.weight": (320, 256)}
    with pytest.raises(CheckpointError, match=r"time_embed\.cond_proj, LCM"):
        detect(shapes)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"input_blocks.0.0.weight": (320, 4, 3, 3)}, "a UNet alone, without its text encoder and VAE"),
        ({f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3)}, "no text encoder and no VAE"),
        ({"encoder.conv_in.weight": (4, 3, 3, 3), "decoder.conv_in.weight": (4,)}, "there is decoder, encoder"),
    ],
)
def test_what_is_not_whole_says_what_is_there(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        detect(shapes)


EPSILON, V = "epsilon", "v_prediction"
SAID: dict[str, tuple[Mapping[str, str], tuple[str, ...], str, str]] = {
    "architecture": ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, (), "", V),  # of Stable Diffusion 2 alone
    "modelspec": ({"modelspec.prediction_type": "v"}, (), "", V),
    "modelspec of the noise": ({"modelspec.prediction_type": "epsilon"}, (), "", EPSILON),
    "kohya": ({"ss_v_parameterization": "True"}, (), "", V),
    "mark": ({}, ("v_pred",), "", V),
    "yaml": ({}, (), '    parameterization: "v"\n', V),
    "yaml of sgm": ({}, (), "target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling", EPSILON),
    "yaml that names none": ({}, (), "target: ldm.models.diffusion.ddpm.LatentDiffusion", EPSILON),
    "several that agree": ({"modelspec.prediction_type": "v_prediction"}, ("v_pred",), "parameterization: v", V),
}


@pytest.mark.parametrize(("family", "kind"), [("sd2", kind) for kind in SAID] + [("sdxl", kind) for kind in SAID][1:])
def test_a_file_is_believed(family: str, kind: str, root: Path, tmp_path: Path) -> None:
    """Comfy-Org/ComfyUI#12579: a header said v, and the model was read as if it predicted the noise."""
    metadata, marks, yaml, expected = SAID[kind]
    shapes = {**read_shapes(made(root, family)[1]), **dict.fromkeys(marks, (0,))}
    (tmp_path / "model.yaml").write_text(yaml)
    said = of_file(shapes, metadata, tmp_path / "model.safetensors")
    layout = detect(shapes, claims=said)
    assert layout.scheduler["prediction_type"] == expected


DISAGREE: dict[str, tuple[Mapping[str, str], tuple[str, ...], str, tuple[str, str]]] = {
    "header and mark": ({"modelspec.prediction_type": "epsilon"}, ("v_pred",), "", ("modelspec", "v_pred")),
    "header and yaml": ({"modelspec.prediction_type": "v"}, (), "parameterization: eps", ("modelspec", "model.yaml")),
    "two keys": ({"ss_v_parameterization": "true", "modelspec.prediction_type": "epsilon"}, (), "",
                 ("ss_v_parameterization", "modelspec")),
}  # fmt: skip


@pytest.mark.parametrize("kind", DISAGREE)
def test_sources_that_disagree_are_both_named_and_the_user_decides(kind: str, root: Path, tmp_path: Path) -> None:
    metadata, marks, yaml, both = DISAGREE[kind]
    shapes = {**read_shapes(made(root, "sdxl")[1]), **dict.fromkeys(marks, (0,))}
    (tmp_path / "model.yaml").write_text(yaml)
    said = of_file(shapes, metadata, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        detect(shapes, claims=said)
    assert all(source in str(error.value) for source in (*both, "--prediction-type decides"))
    for asked in (EPSILON, V):
        assert detect(shapes, asked, claims=said).scheduler["prediction_type"] == asked


def test_a_prediction_that_is_not_served_is_refused_and_the_name_of_a_file_says_nothing(root: Path) -> None:
    shapes = read_shapes(made(root, "sdxl")[1])
    with pytest.raises(CheckpointError, match=r"modelspec\.prediction_type says 'sample', which is not supported"):
        detect(shapes, claims=of_file(shapes, {"modelspec.prediction_type": "sample"}, None))
    plain = of_file(shapes, {}, Path("model-v_prediction-768-v.safetensors"))
    assert detect(shapes, claims=plain).scheduler["prediction_type"] == EPSILON


def test_the_header_of_another_familys_file_is_not_believed(root: Path) -> None:
    """Then what else it says is of another file too."""
    shapes = read_shapes(made(root, "sdxl")[1])
    for said in ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-refiner", "something-else"):
        detect(shapes, claims=of_file(shapes, {"modelspec.architecture": said}, None))
    for said in ("stable-diffusion-v1", "stable-diffusion-v2-512", "Flux.1-dev"):
        claims = of_file(shapes, {"modelspec.architecture": said}, None)
        with pytest.raises(CheckpointError, match=f"{said}.*but the tensors are those of Stable Diffusion XL"):
            detect(shapes, claims=claims)
        detect(shapes, EPSILON, claims=claims)


def test_a_size_and_a_terminal_signal_of_zero_are_believed(root: Path) -> None:
    shapes = read_shapes(made(root, "sd1")[1])
    said = of_file(shapes, {"modelspec.resolution": "768x768", "ss_zero_terminal_snr": "True"}, None)
    layout = detect(shapes, claims=said)
    assert layout.parts[0].config["sample_size"] == 96
    assert layout.scheduler["rescale_betas_zero_snr"] is True
    both = {"ztsnr": (0,), **shapes}
    with pytest.raises(CheckpointError, match="the tensor ztsnr says true, but the header's ss_zero_terminal_snr"):
        detect(both, claims=of_file(both, {"ss_zero_terminal_snr": "False"}, None))


def test_the_vae_may_come_from_elsewhere(root: Path, tmp_path: Path) -> None:
    """Guards files that are published without one: from a folder, a checkpoint, or a file in the original layout."""
    folder, file = made(root, "sd1")
    alone = changed(file, tmp_path / "a.safetensors", lambda t: {k: v for k, v in t.items() if not k.startswith(VAE)})
    vae = changed(
        file, tmp_path / "v.safetensors", lambda t: {k[len(VAE) :]: v for k, v in t.items() if k.startswith(VAE)}
    )
    with pytest.raises(CheckpointError, match="no VAE; a whole checkpoint is needed, or --vae"):
        convert(alone, tmp_path / "out")
    for source, given in ((alone, vae), (alone, folder / "vae"), (alone, folder), (folder, vae), (file, vae)):
        with opened(Wanted(str(source), vae=given), tmp_path / "bundle") as checkpoint:
            found, expected = families.describe(checkpoint), families.describe(open_checkpoint(folder, "x"))
            assert found.vae == expected.vae
            for ours, theirs in zip(found.networks[-2:], expected.networks[-2:], strict=True):
                inputs = ours.draw_inputs(1)
                assert (run(ours.load(), inputs)[0] == run(theirs.load(), inputs)[0]).all()
    assert not list(tmp_path.glob(".bundle*"))
    other = original_layout.networks(made(root, "flux-dev")[0])[0]["vae"]
    assert len(other) > 0
    with pytest.raises(CheckpointError, match="has no VAE"):
        convert(alone, tmp_path / "no", vae=alone)
