"""A bundle against diffusers' own pipeline on the same checkpoint: what our reader might read wrongly is refused.

A wrong reading is planted where it would end: in a copy of the bundle, whose networks are still what "torch computes".
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from gesso_export import export, families
from gesso_export.bundle import manifest
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.errors import VerificationError
from gesso_export.families import parts
from gesso_export.networks.clip import PooledTextEncoder
from gesso_export.networks.module import run
from gesso_export.precision import picture_tolerances
from gesso_export.proof import independent, memory, reference
from gesso_export.proof.one_step import Answer
from gesso_export.proof.reference import Array, Arrays
from gesso_export.published import configs
from subjects import SUBJECTS, OneLayerLess, Subject, as_wrapped, compare


def edited(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / manifest.FILE_NAME
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def one_token(content: dict[str, Any]) -> None:
    """What is left of a tokenizer whose vocabulary is not there."""
    content["model"]["vocab"] = {"a</w>": 320, "<|endoftext|>": 49407}
    content["model"] |= {"merges": [], "unk_token": "<|endoftext|>"}


def swap(content: dict[str, Any], key: str) -> None:
    first, second = content["tokenizers"]["text_encoder"], content["tokenizers"]["text_encoder_2"]
    first[key], second[key] = second[key], first[key]


MANIFEST: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "epsilon for v": ("plain", lambda m: m["scheduler"]["config"].update(prediction_type="epsilon"), "latents"),
    "v for epsilon": ("inpaint", lambda m: m["scheduler"]["config"].update(prediction_type="v_prediction"), "latents"),
    "other betas": ("plain", lambda m: m["scheduler"]["config"].update(beta_schedule="linear"), "latents"),
    "no terminal signal": (
        "sdxl", lambda m: m["scheduler"]["config"].update(rescale_betas_zero_snr=True), "latents",
    ),
    "another shift": ("flux", lambda m: m["scheduler"]["config"].update(max_shift=0.6, base_shift=0.2), "latents"),
    "the scaling factor of another VAE": ("plain", lambda m: m["vae"].update(scaling_factor=0.13025), "latents"),
    "the same where all is noise": ("inpaint", lambda m: m["vae"].update(scaling_factor=0.2), "latents"),
    "no shift factor": ("flux", lambda m: m["vae"].update(shift_factor=0.0), "latents"),
    "another padding token": ("plain", lambda m: m["tokenizers"]["text_encoder"].update(pad_token_id=49407), "prompt"),
    "another end": ("inpaint", lambda m: m["tokenizers"]["text_encoder"].update(eos_token_id=320), "prompt"),
    "no begin": ("inpaint", lambda m: m["tokenizers"]["text_encoder"].update(bos_token_id=None), "prompt"),
    "paddings swapped": ("sdxl", lambda m: swap(m, "pad_token_id"), "prompt"),
    "an empty prompt that is read": (
        "sdxl", lambda m: m["options"].update(force_zeros_for_empty_prompt=False), "negative_prompt",
    ),
    "text encoders in another order": (
        "sdxl", lambda m: m.update(tokenizers=dict(reversed(m["tokenizers"].items()))), "unet cannot be run",
    ),
    "a shorter text": ("flux", lambda m: m["tokenizers"]["text_encoder_2"].update(max_length=256), "prompt_embeds"),
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_read_rightly_passes_with_room(subject: Callable[[str], Subject], name: str) -> None:
    """Guards the plain loop itself, and that a tolerance is no accident: a tenth of it is enough."""
    _, bundle, expected = subject(name)
    assert compare(bundle, expected) < picture_tolerances()["fp32"] / 10
    assert expected.picture.std() > 0.1, "a flat picture would prove nothing"


@pytest.mark.parametrize("fault", MANIFEST)
def test_a_manifest_that_was_read_wrongly_is_refused(
    subject: Callable[[str], Subject], tmp_path: Path, fault: str
) -> None:
    """Guards what no comparison of networks shows; v-prediction taken for epsilon is Comfy-Org/ComfyUI#12579."""
    name, edit, where = MANIFEST[fault]
    _, bundle, expected = subject(name)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle", copy_function=shutil.copy))
    edited(copy, edit)
    with pytest.raises(VerificationError, match=where):
        compare(copy, expected)


@pytest.mark.parametrize(("name", "encoder"), [("plain", "text_encoder"), ("sdxl", "text_encoder_2")])
def test_a_tokenizer_that_returns_one_token_is_refused(
    subject: Callable[[str], Subject], tmp_path: Path, name: str, encoder: str
) -> None:
    """Guards filipstrand/mflux#283 where only our side reads the folder without its vocabulary."""
    _, bundle, expected = subject(name)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    path = copy / manifest.read(copy).tokenizers[encoder].file
    content = json.loads(path.read_text())
    one_token(content)
    path.write_text(json.dumps(content))
    with pytest.raises(VerificationError, match="prompt_embeds"):
        compare(copy, expected)


class FirstToken(PooledTextEncoder):
    """The summary of a text taken from its begin."""

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> Any:
        answer = self.model(input_ids=input_ids, output_hidden_states=True)
        return answer.hidden_states[-2], self.model.text_projection(answer.last_hidden_state[:, 0])


WRAPPED: dict[str, tuple[str, str, Callable[[Any], Any], str]] = {
    "a dropped text layer": ("inpaint", "text_encoder", OneLayerLess, "prompt_embeds"),
    "the pooled prompt of another token": ("sdxl", "text_encoder_2", FirstToken, "pooled_prompt_embeds"),
}


@pytest.mark.parametrize("fault", WRAPPED)
def test_a_network_that_was_read_wrongly_is_refused(subject: Callable[[str], Subject], fault: str) -> None:
    """Guards a network that is exactly what torch computes, of a model that was put together wrongly."""
    name, encoder, wrap, where = WRAPPED[fault]
    source, bundle, expected = subject(name)
    with pytest.raises(VerificationError, match=f"reads this checkpoint differently: {where}"):
        compare(bundle, expected, as_wrapped(source, encoder, wrap))


NETWORKS = {
    "plain": ("text_encoder", "unet", "vae_encoder", "vae_decoder"),
    "inpaint": ("unet",),
    "sdxl": ("text_encoder", "text_encoder_2", "unet"),
    "flux": ("text_encoder", "text_encoder_2", "transformer", "vae_encoder", "vae_decoder"),
}


@pytest.mark.parametrize(("name", "network"), [(name, network) for name in NETWORKS for network in NETWORKS[name]])
def test_a_transposed_matrix_is_refused(
    subject: Callable[[str], Subject], tmp_path: Path, name: str, network: str
) -> None:
    """Guards a square matrix taken the other way round, which every check of shapes lets through: one is enough."""
    _, bundle, expected = subject(name)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle", copy_function=shutil.copy))
    graph = onnx.load(copy / manifest.read(copy).networks[network].file, load_external_data=False).graph
    stored = next(tensor for tensor in graph.initializer if len(tensor.dims) == 2 and len({*tensor.dims}) == 1)
    place = {entry.key: entry.value for entry in stored.external_data}
    file = copy / place["location"]
    file.chmod(0o644)
    matrix = np.memmap(file, np.float32, "r+", int(place["offset"]), tuple(stored.dims))
    matrix[:] = matrix.T.copy()
    matrix.flush()
    with pytest.raises(VerificationError, match="reads this checkpoint differently"):
        compare(copy, expected)


def test_rounding_hides_no_misreading(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """Guards what is smaller than a precision's own error: the networks it was made from are held to float32's."""
    source, bundle, expected = subject("plain")
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle", copy_function=shutil.copy))
    edited(copy, lambda m: m["networks"]["unet"].update(precision="fp16"))
    checkpoint = open_checkpoint(source, "x")
    model = families.describe(checkpoint)
    right = partial(run, model.denoiser.load())

    def slightly_off(inputs: Arrays) -> list[Array]:
        return [1.002 * answer for answer in right(inputs)]

    def check(answer: Answer) -> str:
        answers = {"unet": answer}
        return str(independent.check(copy, checkpoint, model.weights, answers, picture_tolerances(), configs.write))

    assert compare(copy, expected, {"unet": slightly_off}) > picture_tolerances()["fp32"]
    assert "paints the same, within 0.0003 standard deviations in fp32, 0.03 in fp16" in check(right)
    with pytest.raises(VerificationError, match="latents"):
        check(slightly_off)


def test_how_much_memory_is_left(tmp_path: Path) -> None:
    """Guards the machine: a pipeline that does not fit is not begun, and a container's limit counts."""
    (proc := tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  2000 kB\n")
    assert memory.available(proc, tmp_path) == 2_048_000
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert memory.available(proc, tmp_path) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(proc, tmp_path) == 2_048_000
    assert memory.available(tmp_path / "none", tmp_path / "none") is None


@pytest.fixture
def ready(subject: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plain checkpoint, whose networks are written already: what is exported takes a second."""
    source, bundle, _ = subject("plain")

    def write_networks(draft: Any, *_: Any) -> manifest.PreviewRgb:
        made = manifest.read(bundle)
        for file in bundle.glob("*.onnx*"):
            shutil.copy(file, draft.folder)
        draft.networks.update(made.networks)
        draft.cases.update(reference.load(bundle / reference.FILE))
        return made.preview_rgb

    monkeypatch.setattr(export, "_write_networks", write_networks)
    return source


def test_what_was_read_wrongly_is_not_written(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gesso_export: Callable[..., tuple[int, str]]
) -> None:
    """Guards the way from the command line: our reader takes half of what a VAE scales by, and nothing is left."""
    read = parts.vae_spec

    def half(component: Any) -> Any:
        spec = read(component)
        return dataclasses.replace(spec, scaling_factor=spec.scaling_factor / 2)

    monkeypatch.setattr(parts, "vae_spec", half)
    code, output = gesso_export(ready, "--out", tmp_path / "bundle")
    assert code == 1
    assert "error: diffusers reads this checkpoint differently: latents after a step is off by" in output
    assert list(tmp_path.iterdir()) == []


def test_what_came_of_it_is_said_and_kept(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gesso_export: Callable[..., tuple[int, str]]
) -> None:
    """Guards against "verified" where nobody looked: too little memory, or told not to."""
    code, output = gesso_export(ready, "--out", tmp_path / "checked")
    assert code == 0
    assert "checked: written and verified\n" in output
    assert (
        "diffusers' StableDiffusionImg2ImgPipeline paints the same, within 0.0003 "
        in gesso_export("inspect", tmp_path / "checked")[1]
    )
    monkeypatch.setattr(memory, "available", lambda: 1000)
    for name, options, why in (
        ("small", (), r"needs 0\.\d GB of memory"),
        ("off", ("--independent-check", "off"), "--independent-check off"),
    ):
        code, output = gesso_export(ready, "--out", tmp_path / name, *options)
        assert code == 0
        assert "written and verified" not in output
        warning = f"not verified independently: {why}"
        assert re.search(f"warning: {warning}", output)
        assert re.search(warning, gesso_export("inspect", tmp_path / name)[1])
