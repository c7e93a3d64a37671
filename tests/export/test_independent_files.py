"""What diffusers reads to hold a bundle against: single files, parts that lie elsewhere, what a person says."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

import bundles
import original_layout
from gesso_export import families
from gesso_export.checkpoint.checkpoint import SingleFile, open_checkpoint
from gesso_export.errors import VerificationError
from gesso_export.precision import picture_tolerances
from gesso_export.proof import independent, opening, pipeline
from gesso_export.proof.sketch import distance
from gesso_export.published import configs
from gesso_export.published.models import MODELS
from gesso_export.source import Wanted, opened
from subjects import OneLayerLess, Subject, as_wrapped, by_diffusers, compare


def single_file(source: Path, file: Path, *, last: bool) -> Path:
    """The Stable Diffusion 2 checkpoint as one file; last: with the layer that nobody uses."""
    tensors, config = original_layout.networks(source)
    whole = original_layout.original(tensors, config)
    encoder = {key: tensor for key, tensor in whole.items() if not key.startswith(original_layout.OPENCLIP)}
    encoder |= dict(original_layout.openclip(tensors["text_encoder"], original_layout.OPENCLIP, last=last))
    save_file({key: tensor.contiguous() for key, tensor in encoder.items()}, file)
    return file


def configs_of(source: Path) -> independent.Configs:
    """Of a model that was never published: those of the directory that the file was made from."""

    def write(file: SingleFile, folder: Path) -> None:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        scheduler = folder / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | configs.trained(file)))

    return write


def held(subject: Subject, file: Path) -> independent.Outcome:
    """The subject's bundle against the file alone: its directory is not where it was."""
    source, bundle, _ = subject
    checkpoint = dataclasses.replace(open_checkpoint(source, "x"), root=source, file=SingleFile(file))
    weights = families.describe(open_checkpoint(source, "x")).weights
    return independent.check(bundle, checkpoint, weights, {}, picture_tolerances(), configs_of(source))


@pytest.mark.parametrize("last", [True, False])
def test_a_single_file_is_held_against_diffusers_own_loader(
    subject: Callable[[str], Subject], tmp_path: Path, last: bool
) -> None:
    """Guards Nerogar/OneTrainer#915: a used text layer dropped, in a file with only those that are used."""
    made = source, bundle, _ = subject("plain")
    file = single_file(source, tmp_path / "sd2.safetensors", last=last)
    assert held(made, file).verified
    if not last:
        (tmp_path / "configs").mkdir()
        configs_of(source)(SingleFile(file), tmp_path / "configs")

        def opened(name: str, elsewhere: Any, **left_out: Any) -> Any:
            return opening.of_single_file(file, name, elsewhere, tmp_path / "configs", **left_out)

        with pytest.raises(VerificationError, match="prompt_embeds is off by"):
            compare(bundle, by_diffusers(bundle, opened), as_wrapped(source, "text_encoder", OneLayerLess))


def test_what_a_file_says_of_its_training_is_heard(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """Guards Comfy-Org/ComfyUI#12579: a v-prediction SDXL, which its metadata alone says, exported as epsilon."""
    made = subject("sdxl")
    tensors = original_layout.original(*original_layout.networks(made[0]))
    save_file(tensors, silent := tmp_path / "silent.safetensors")
    assert held(made, silent).verified
    save_file(tensors, said := tmp_path / "said.safetensors", metadata={"modelspec.prediction_type": "v"})
    with pytest.raises(VerificationError, match="latents"):
        held(made, said)


@pytest.mark.parametrize("name", ["plain", "flux"])
def test_a_tokenizer_without_its_vocabulary_is_seen_by_this_check_alone(
    subject: Callable[[str], Subject], tmp_path: Path, name: str
) -> None:
    """Guards filipstrand/mflux#283: diffusers reads such a folder as we did, every prompt the same token."""
    source, bundle, _ = subject(name)
    copy = Path(shutil.copytree(source, tmp_path / "checkpoint"))
    for file in ("vocab.json", "merges.txt", "tokenizer.json"):
        (copy / ("tokenizer_2" if name == "flux" else "tokenizer") / file).unlink(missing_ok=True)
    with pytest.raises(VerificationError, match=r"tokenizer(_2)?: has \d+ tokens, its text encoder \d+"):
        by_diffusers(bundle, partial(opening.of_directory, copy))


# Its width is written in diffusers' loader, the number of its layers is not.
WIDE_FLUX: dict[str, Any] = {**original_layout.FLUX, "variant": "dev", "half": True, "heads": 24,
                             "rope_axes": [16, 56, 56], "single_layers": 1}  # fmt: skip


@pytest.mark.slow  # a gigabyte of weights
@pytest.mark.parametrize("alone", [True, False])
def test_a_single_file_of_flux_is_read_by_diffusers_own_loader(
    fresh_bundles: Path, tmp_path: Path, alone: bool
) -> None:
    """Guards both forms: the transformer alone, the rest from --base; and all in one, as ComfyUI saves it."""
    source = bundles.checkpoint(fresh_bundles, **WIDE_FLUX)
    tensors = original_layout.original(*original_layout.networks(source))
    if alone:
        prefix = original_layout.UNET
        tensors = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    save_file(tensors, file := tmp_path / "flux.safetensors")
    del tensors
    name, written = "FluxImg2ImgPipeline", tmp_path / "configs"
    written.mkdir()
    with opened(Wanted(str(file), base=source), tmp_path / "out") as found:
        for ours in found.root.glob("*/*.safetensors"):
            if not ours.parent.is_symlink():
                ours.unlink()
        open_pipeline = independent._opener(found, name, written, configs_of(source))
        painted = pipeline.paint(open_pipeline, name, 3.5, 512)
    expected = pipeline.paint(partial(opening.of_directory, source, name, {}), name, 3.5, 512)
    assert distance(painted.texts["prompt_embeds"], expected.texts["prompt_embeds"]) < 1e-5
    assert distance(painted.picture, expected.picture) < 1e-5


def check(subject: Subject, out: Path, **asked: Any) -> str:
    """The subject's bundle against its checkpoint, opened as the command line does it."""
    checkpoint, bundle, _ = subject
    with opened(Wanted(str(checkpoint), **asked), out) as found:
        weights = families.describe(found).weights
        return str(independent.check(bundle, found, weights, {}, picture_tolerances(), configs.write))


def test_what_a_person_says_is_heard(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """Guards a bundle made by a person's word against a check by the checkpoint's own."""
    made = subject("plain")
    assert "paints the same" in check(made, tmp_path / "out", prediction_type="v_prediction", scheduler="DDIMScheduler")
    with pytest.raises(VerificationError, match="latents"):
        check(made, tmp_path / "out", prediction_type="epsilon")
    settings = json.loads((made[0] / "scheduler" / "scheduler_config.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(settings | {"beta_end": 0.02}))
    with pytest.raises(VerificationError, match="latents"):
        check(made, tmp_path / "out", scheduler=str(tmp_path / "other.json"))


def test_a_vae_of_its_own_file_is_read_by_diffusers(gesso_bundles: Path, tmp_path: Path) -> None:
    """Guards --vae: the file itself, and not what we made of it."""
    source = bundles.checkpoint(gesso_bundles, **original_layout.KINDS["sd1"])
    tensors, config = original_layout.networks(source)
    vae = original_layout.autoencoder(tensors["vae"], config["vae"], "")
    save_file({key: tensor.contiguous() for key, tensor in vae}, file := tmp_path / "vae.safetensors")
    with opened(Wanted(str(source), vae=file), tmp_path / "out") as found:
        (ours,) = found.components["vae"].folder.glob("*.safetensors")
        ours.unlink()
        theirs = independent._elsewhere(found)["vae"]()
    assert theirs.config.scaling_factor == config["vae"]["scaling_factor"]
    expected = opening.part(open_checkpoint(source, "x").components["vae"]).state_dict()
    assert {name: tensor.tolist() for name, tensor in theirs.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }


def test_what_diffusers_would_make_up_is_not_held_against_a_bundle(
    subject: Callable[[str], Subject], tmp_path: Path
) -> None:
    """Guards files that we read and diffusers' loader does not, as SDXL's with the projection under another name: a
    weight that it does not find it leaves random, in silence."""
    made = subject("sdxl")
    tensors = original_layout.original(*original_layout.networks(made[0]))
    projection = tensors.pop(f"{original_layout.SDXL_OPENCLIP}text_projection")
    tensors[f"{original_layout.SDXL_OPENCLIP}text_projection.weight"] = projection.T.contiguous()
    save_file(tensors, tmp_path / "sdxl.safetensors")
    outcome = held(made, tmp_path / "sdxl.safetensors")
    assert outcome.verified or "it finds no text_projection.weight" in outcome.text


def test_nobody_is_asked_for_anything(
    subject: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a quiet wire: diffusers looks on the hub for what a directory or a single file lacks."""
    asked: list[Any] = []

    def look_up(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("nobody is there")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    made = subject("plain")
    by_diffusers(made[1], partial(opening.of_directory, made[0]))
    assert held(made, single_file(made[0], tmp_path / "sd2.safetensors", last=True)).verified
    (tmp_path / "empty").mkdir()
    with pytest.raises(opening.CannotOpen):
        by_diffusers(made[1], partial(opening.of_directory, tmp_path / "empty"))
    with pytest.raises(opening.CannotOpen, match="offline"):
        by_diffusers(made[1], lambda *_, **__: huggingface_hub.model_info("owner/name"))
    assert not asked


def test_a_part_is_read_from_where_it_is(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """Guards a part that is not beside the others, as of a single file that lacks it: diffusers reads that one."""
    source, bundle, _ = subject("plain")
    whole = Path(shutil.copytree(source, tmp_path / "checkpoint"))
    for name in ("vae", "tokenizer", "text_encoder"):
        (whole / name).rename(tmp_path / name)
        (whole / name).symlink_to(tmp_path / name, target_is_directory=True)
    checkpoint = open_checkpoint(whole, "x")
    weights = families.describe(checkpoint).weights
    check = partial(independent.check, bundle, checkpoint, weights, {}, picture_tolerances(), configs.write)
    assert check().verified
    config = tmp_path / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.1}))
    with pytest.raises(VerificationError, match="latents"):
        check()


KINDS: dict[str, tuple[tuple[str, ...], SingleFile, str]] = {
    "sd15": ((), SingleFile(Path()), "epsilon"),
    "sd21": ((), SingleFile(Path()), "v_prediction"),
    "sd21 of 512 pixels": ((), SingleFile(Path(), "epsilon"), "epsilon"),
    "sdxl": ((), SingleFile(Path()), "epsilon"),
    "sdxl-turbo": ((), SingleFile(Path(), turbo=True), "epsilon"),
    "sdxl for v": (("v_pred", "ztsnr"), SingleFile(Path()), "v_prediction"),
    "sdxl-inpaint": ((), SingleFile(Path()), "epsilon"),
    "flux-fill": ((), SingleFile(Path()), "epsilon"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_configs_of_a_single_file_are_those_of_its_published_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Guards the directory that stands in for the hub's: whole, and with what the file and the person say of it.

    Which model it is, is looked at in test_single_file_headers.py.
    """
    marks, file, prediction = KINDS[kind]
    name = kind.split()[0]
    monkeypatch.setattr(configs, "published", lambda *_, **__: name)
    save_file({mark: torch.zeros(1) for mark in ("x", *marks)}, path := tmp_path / "x.safetensors")
    configs.write(dataclasses.replace(file, path=path), tmp_path / "out")
    if name.startswith("flux"):  # T5's tokenizer is the person's own
        (tmp_path / "out" / "tokenizer_2").mkdir()
        (tmp_path / "out" / "tokenizer_2" / "tokenizer_config.json").write_text("{}")
    found = open_checkpoint(tmp_path / "out", "x")
    published = MODELS[name].checkpoint
    assert found.pipeline == published.pipeline
    assert families.describe(found).family == families.describe(published).family
    scheduler = found.components["scheduler"].config()
    assert scheduler.get("prediction_type", "epsilon") == prediction
    assert bool(scheduler.get("rescale_betas_zero_snr")) is ("ztsnr" in marks)
    for part, component in found.components.items():
        if part.startswith("text_encoder"):
            assert component.config() == published.components[part].config()
        if component.class_name == "CLIPTokenizer":
            assert (component.folder / "vocab.json").exists()


def test_a_file_that_no_published_model_fits_is_not_verified(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """Guards against certifying what was not looked at: diffusers cannot load a file of sizes that it does not know."""
    source, bundle, _ = subject("plain")
    path = single_file(source, tmp_path / "sd2.safetensors", last=True)
    for file in (path, Path(shutil.copy(path, tmp_path / "sd2"))):
        checkpoint = dataclasses.replace(open_checkpoint(source, "x"), file=SingleFile(file))
        outcome = independent.check(bundle, checkpoint, {}, {}, picture_tolerances(), configs.write)
        assert not outcome.verified
        assert re.match(
            r"not verified independently: diffusers cannot open it: (its denoiser has [\d,]+ param|it takes sd2 for a)",
            str(outcome),
        )
