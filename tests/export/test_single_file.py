"""Single .safetensors files in the original layouts: recognised by their header, and converted bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file

import original_layout
from gesso_export import cli, families
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.checkpoint.loading import load_model
from gesso_export.checkpoint.weights import find_weights
from gesso_export.errors import CheckpointError
from gesso_export.networks.module import run
from gesso_export.single_file import flux
from gesso_export.single_file.convert import convert
from original_layout import described, made, stored

PIPELINES = {"sd1": "StableDiffusionPipeline", "sd1-inpainting": "StableDiffusionInpaintPipeline",
             "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline",
             "sdxl-inpainting": "StableDiffusionXLInpaintPipeline", "flux-dev": "FluxPipeline",
             "flux-schnell": "FluxPipeline", "flux-fill": "FluxFillPipeline"}  # fmt: skip


@pytest.fixture(scope="module")
def root(fresh_bundles: Path) -> Path:
    return fresh_bundles


@pytest.fixture(scope="module", params=original_layout.KINDS)
def case(request: pytest.FixtureRequest, root: Path) -> tuple[str, Path, Path]:
    """(kind, the checkpoint as a directory, the same as a single file)"""
    return request.param, *made(root, request.param)


def given(kind: str, folder: Path) -> dict[str, Any]:
    """What a file of this kind does not say."""
    if kind.startswith("flux"):
        return {"base": folder}
    return {"prediction_type": "v_prediction"} if kind == "sd2" else {}


def test_a_single_file_is_the_directory_it_was_made_from(case: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Guards every tensor and every number of the configs that matters; bits and precision, not values about equal."""
    kind, folder, file = case
    convert(file, tmp_path, **given(kind, folder))
    assert not [path for path in tmp_path.iterdir() if path.is_symlink() and path.name != "tokenizer_2"]
    assert_the_same(tmp_path, folder)
    for tokenizer in tmp_path.glob("tokenizer*"):
        for theirs in (folder / tokenizer.name).iterdir():
            assert (tokenizer / theirs.name).read_text() == theirs.read_text()


def assert_the_same(ours: Path, theirs: Path) -> None:
    found, expected = open_checkpoint(ours, "x"), open_checkpoint(theirs, "x")
    assert found.components.keys() == expected.components.keys()
    for name in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2"):
        if name in expected.components:
            assert_equal_tensors(stored(ours / name), stored(theirs / name))
            assert find_weights(found.components[name]).parameters() > 0
    model, same = families.describe(found), families.describe(expected)
    assert described(model) == described(same)
    assert dict(model.scheduler.config) == dict(same.scheduler.config)
    for network, other in zip(model.networks, same.networks, strict=True):
        inputs = network.draw_inputs(2)
        answers = zip(run(network.load(), inputs), run(other.load(), inputs), strict=True)
        assert all((answer == expected).all() for answer, expected in answers), network.name


def assert_equal_tensors(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        assert torch.equal(ours[key], tensor), key


@pytest.mark.parametrize("prefix", [original_layout.UNET, ""])
def test_a_transformer_alone_takes_the_rest_from_another_checkpoint(root: Path, tmp_path: Path, prefix: str) -> None:
    """Guards the files as Black Forest Labs publish them: the schedule is the file's own, whatever the base is."""
    folder, file = made(root, "flux-schnell")
    base, _ = made(root, "flux-dev")
    alone = {key: tensor for key, tensor in load_file(file).items() if key.startswith(original_layout.UNET)}
    save_file(
        {prefix + key.removeprefix(original_layout.UNET): alone[key] for key in alone}, tmp_path / "f.safetensors"
    )
    convert(tmp_path / "f.safetensors", tmp_path / "ours", base=base)
    assert_equal_tensors(stored(tmp_path / "ours" / "transformer"), stored(folder / "transformer"))
    links = {path.name: path.resolve() for path in (tmp_path / "ours").iterdir() if path.is_symlink()}
    borrowed = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    assert links == {name: (base / name).resolve() for name in borrowed}
    found, expected = (families.describe(open_checkpoint(path, "x")) for path in (tmp_path / "ours", folder))
    assert described(found) == described(expected)
    assert dict(found.scheduler.config) == dict(expected.scheduler.config)


def test_what_a_flux_file_does_not_hold_is_asked_for(root: Path, tmp_path: Path) -> None:
    """Guards against a transformer alone being taken for a broken file, and against a base of another family."""
    folder, file = made(root, "flux-dev")
    other, _ = made(root, "sd1")
    rest = {key: tensor for key, tensor in load_file(file).items() if not key.startswith(("vae.", "text_encoders."))}
    save_file(rest, alone := tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match=r"FLUX\.1 dev without tokenizer_2; give --base DIR"):
        convert(file, tmp_path / "out")
    missing = r"FLUX\.1 dev without vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2; give --base DIR"
    with pytest.raises(CheckpointError, match=missing):
        convert(alone, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a StableDiffusionPipeline, not FLUX"):
        convert(file, tmp_path / "out", base=other)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(CheckpointError, match="empty has no tokenizer_2, and neither has the file"):
        convert(file, tmp_path / "out", base=tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"--base is for FLUX\.1 files; this file is Stable Diffusion 1\.x"):
        convert(made(root, "sd1")[1], tmp_path / "out", base=folder)
    with pytest.raises(CheckpointError, match="predicts a velocity"):
        convert(file, tmp_path / "out", "epsilon", base=folder)


def test_fluxs_keys_are_mapped_as_diffusers_maps_them() -> None:
    """Guards the table against diffusers' own conversion, which knows the full width alone: columns are left out."""
    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    shapes = dict(original_layout.flux(dict(model.state_dict()), model.config))
    random = torch.Generator().manual_seed(0)
    tensors = {
        key: torch.randn(len(tensor), *[1] * (tensor.ndim - 1), generator=random) for key, tensor in shapes.items()
    }
    ours = dict(flux.renamed(tensors, model.inner_dim))
    assert_equal_tensors(ours, convert_flux_transformer_checkpoint_to_diffusers(dict(tensors)))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_widened_and_no_value_changes(root: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Guards files of half the size, of which only the matrices are float8: their numbers, and that they load."""
    folder, file = made(root, "sdxl-inpainting")
    small = {key: narrowed(tensor, dtype) for key, tensor in load_file(file).items()}
    save_file(small, tmp_path / "small.safetensors")
    convert(tmp_path / "small.safetensors", tmp_path / "ours")
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours = stored(tmp_path / "ours" / name)
        for key, tensor in stored(folder / name).items():
            expected = narrowed(tensor, dtype)
            if expected.dtype == dtype:
                assert ours[key].dtype == torch.bfloat16
            assert torch.equal(ours[key].float(), expected.float()), key
    model = families.describe(open_checkpoint(tmp_path / "ours", "x"))
    for network in model.networks:
        answers = run(network.load(), network.draw_inputs(0))
        assert all((answer == answer).all() for answer in answers)  # no NaN


def narrowed(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.ndim > 1 and tensor.is_floating_point() else tensor


def test_float8_in_a_directory_is_loaded_as_it_is(root: Path, tmp_path: Path) -> None:
    """Guards the way past the conversion; and NaN, which torch does not look for in float8."""
    folder, file = made(root, "flux-schnell")
    convert(file, tmp_path, base=folder)
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder_2", "model")):
        path = tmp_path / part / f"{stem}.safetensors"
        small = {key: narrowed(tensor, torch.float8_e4m3fn) for key, tensor in load_file(path).items()}
        save_file(small, path, metadata={"format": "pt"})
        component = open_checkpoint(tmp_path, "x").components[part]
        find_weights(component).check_finite()
        loaded = dict(load_model(component, find_weights(component)).named_parameters())
        for key, tensor in small.items():
            assert torch.equal(loaded[key].data, tensor.float()), key
        key = next(key for key, tensor in small.items() if tensor.dtype == torch.float8_e4m3fn)
        broken = small[key].float()
        broken.view(-1)[-1] = torch.nan
        save_file({**small, key: broken.to(torch.float8_e4m3fn)}, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=f"tensor {key} holds NaN"):
            find_weights(component).check_finite()
        save_file({**small, f"{key}_scale": torch.ones(1)}, path)
        with pytest.raises(CheckpointError, match="scaled float8"):
            find_weights(component).check_finite()


def test_the_command_takes_a_single_file(
    case: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the way from the command line, and that nothing is left beside the bundle, nor taken from the base."""
    kind, folder, file = case
    seen: list[str] = []

    def export(checkpoint: Any, out: Path, **options: Any) -> Any:
        seen.append(f"{checkpoint.name} {checkpoint.pipeline} of {checkpoint.file.path.name}")
        assert (checkpoint.root / "vae" / "config.json").exists()
        return SimpleNamespace(exporter={})

    monkeypatch.setattr("gesso_export.export.export", export)
    options = [
        word for key, value in given(kind, folder).items() for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    assert cli.main([str(file), "--out", str(tmp_path / "bundle"), *options]) == 0
    assert seen == [f"{file.name} {PIPELINES[kind]} of {file.name}"]
    assert list(tmp_path.iterdir()) == []
    assert (folder / "tokenizer").is_dir()
    if kind.startswith("flux"):
        assert (folder / "tokenizer_2" / "tokenizer.json").exists()


def test_what_only_files_need_is_refused_for_directories(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against an option that would be passed over."""
    folder, _ = made(root, "sdxl")
    for options in (["--turbo"], ["--base", str(folder)]):
        assert cli.main([str(folder), "--out", str(tmp_path / "out"), *options]) == 2
        assert f"{options[0]} is for .safetensors files" in capsys.readouterr().err
