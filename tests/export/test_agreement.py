"""Every part of a checkpoint is held against the others before anything is made of it; and `inspect` says all of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bundles
from gesso_export import families
from gesso_export.checkpoint.checkpoint import Checkpoint, open_checkpoint
from gesso_export.errors import CheckpointError, VerificationError
from gesso_export.examination import examine
from gesso_export.source import Wanted, as_asked, opened
from original_layout import KINDS, made

Command = Callable[..., tuple[int, str]]
UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def add(path: Path, metadata: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> None:
    """Tensors of these names, `_` for a dot."""
    more = {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}
    save_file({**load_file(path), **more}, path, {"format": "pt", **(metadata or {})})


def cut(path: Path, lines: int) -> None:
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:lines]) + "\n", encoding="utf-8")


def lose_words(path: Path, kept: int) -> None:
    words = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({word: row for word, row in words.items() if row < kept}), encoding="utf-8")


def one_more_layer(root: Path) -> None:
    tensors = load_file(root / TEXT)
    layer = {key: tensor for key, tensor in tensors.items() if ".layers.0." in key}
    more = {key.replace(".layers.0.", ".layers.1."): tensor.clone() for key, tensor in layer.items()}
    save_file({**tensors, **more}, root / TEXT, {"format": "pt"})


def other_tokenizer(root: Path) -> None:
    for file in (root / "tokenizer").iterdir():
        file.unlink()
    for file in (bundles.LITTLE_WORLD / "tokenizer").iterdir():
        shutil.copy(file, root / "tokenizer")


AMISS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no vocab.json": (lambda root: (root / "tokenizer/vocab.json").unlink(), "has no vocabulary: vocab.json"),
    "no merges.txt": (lambda root: (root / "tokenizer/merges.txt").unlink(), "tokenizer: has no vocabulary"),
    "empty merges.txt": (lambda root: cut(root / "tokenizer/merges.txt", 1), "tokenizer: no merge makes"),
    "half of merges.txt": (lambda root: cut(root / "tokenizer/merges.txt", 20_000), "tokenizer: no merge makes"),
    "an empty tokenizer": (lambda root: (root / "tokenizer/vocab.json").write_text("{}"), "tokenizer"),
    "half of vocab.json": (lambda root: lose_words(root / "tokenizer/vocab.json", 20_000), "tokenizer"),
    "two of one number": (
        lambda root: edit(root / "tokenizer/vocab.json", **{"cat</w>": 7}),
        "two tokens have the same number",
    ),
    "another model's": (other_tokenizer, "has 706 tokens, but the text encoder's table 49408 rows"),
    "another end": (
        lambda root: edit(root / "tokenizer/special_tokens_map.json", eos_token="x"),
        "a text ends with token 87",
    ),
    "no token": (lambda root: edit(root / "tokenizer/special_tokens_map.json", unk_token={}), "unk_token is {}"),
    "a layer too many": (one_more_layer, "encoder.layers.1"),
    "a layer too few": (lambda root: edit(root / "text_encoder/config.json", num_hidden_layers=2), "text_encoder: the"),
    "a guided unet": (lambda root: add(root / UNET, time_embedding__cond_proj__weight=(4, 4)), "time_cond_proj_dim"),
    "a unet's class": (lambda root: add(root / UNET, class_embedding__weight=(4, 4)), "class_embed_type"),
    "a block too many": (lambda root: add(root / UNET, down_blocks__7__conv__weight=(4,)), "down_blocks.7"),
    "v in the header": (
        lambda root: add(root / UNET, {"modelspec.prediction_type": "v"}),
        "scheduler_config.json says epsilon, but the header's modelspec.prediction_type says v_prediction",
    ),
    "v by a mark": (lambda root: add(root / UNET, v_pred=(0,)), "says epsilon, but the tensor v_pred says"),
    "no terminal signal": (
        lambda root: add(root / UNET, ztsnr=(0,)),
        "scheduler_config.json says false, but the tensor ztsnr says true; --scheduler FILE decides",
    ),
    "too few betas": (
        lambda root: edit(root / "scheduler/scheduler_config.json", trained_betas=[0.1, 0.2]),
        "trained_betas has 2 betas, but num_train_timesteps is 1000",
    ),
    "text of another width": (lambda root: edit(root / "unet/config.json", cross_attention_dim=64), "hidden_size"),
    "latents of another kind": (lambda root: edit(root / "vae/config.json", latent_channels=16), "in_channels is 9"),
}  # fmt: skip


@pytest.mark.parametrize("case", AMISS)
def test_parts_that_do_not_belong_together_are_refused(case: str, spoil: Path) -> None:
    """filipstrand/mflux#283: with half a tokenizer every prompt is the same token, "exported and verified"."""
    change, named = AMISS[case]
    change(spoil)
    refused = examine(open_checkpoint(spoil, "x")).refused
    assert any(named in reason for reason in refused), refused


def test_tensors_that_take_no_part_are_left_out_by_name(spoil: Path) -> None:
    """Guards checkpoints that diffusers reads: one stray tensor is no reason to refuse a model, nor to hide it."""
    add(spoil / UNET, mid_block__attentions__0__lora_up__weight=(4, 4), model_ema__decay=(1,))
    add(spoil / TEXT, embeddings__position_ids=(1, 77), text_projection__weight=(4, 4))
    found = examine(open_checkpoint(spoil, "x"))
    assert found.refused == []
    assert {name.partition(": ")[2] for name in found.left_out} == {
        "mid_block.attentions.0.lora_up.weight",
        "model_ema.decay",
        "embeddings.position_ids",
        "text_projection.weight",
    }


@pytest.mark.parametrize(
    ("spoiled", "named"),
    [("tokenizer_2/tokenizer.json", "has no vocabulary: spiece.model or tokenizer.json"), (None, "guidance_embeds")],
)
def test_fluxs_parts_are_held_together_too(
    spoiled: str | None, named: str, fresh_bundles: Path, tmp_path: Path
) -> None:
    """mflux#283 with T5's vocabulary; and a model that takes guidance, whose config says that it does not."""
    folder = Path(shutil.copytree(bundles.checkpoint(fresh_bundles, **KINDS["flux-dev"]), tmp_path / "flux"))
    assert examine(open_checkpoint(folder, "x")).refused == []
    if spoiled is not None:
        (folder / spoiled).unlink()
    else:
        edit(folder / "transformer/config.json", guidance_embeds=False)
    refused = examine(open_checkpoint(folder, "x")).refused
    assert any(named in reason for reason in refused), refused


@pytest.mark.parametrize("length", [256, 257])
def test_fluxs_shift_is_a_line_that_can_be_followed(length: int, fresh_bundles: Path, tmp_path: Path) -> None:
    """Through two points of one length there is none, and through two that are next to each other it overflows."""
    folder = Path(shutil.copytree(bundles.checkpoint(fresh_bundles, **KINDS["flux-dev"]), tmp_path / "flux"))
    edit(folder / "scheduler/scheduler_config.json", base_image_seq_len=256, max_image_seq_len=length, max_shift=9)
    with pytest.raises(CheckpointError, match="no line that a shift can follow"):
        families.describe(open_checkpoint(folder, "x"))


def test_the_user_decides_what_a_directory_predicts(spoil: Path, tmp_path: Path) -> None:
    add(spoil / UNET, {"modelspec.prediction_type": "v"})
    for asked in ("epsilon", "v_prediction"):
        with opened(Wanted(str(spoil), prediction_type=asked), tmp_path / "bundle") as checkpoint:
            found = examine(checkpoint)
            assert found.refused == []
            assert found.model is not None
            assert found.model.scheduler.config["prediction_type"] == asked


def asked(root: Path, scheduler: str) -> Checkpoint:
    return as_asked(open_checkpoint(root, "x"), Wanted(str(root), scheduler=scheduler))


def test_a_scheduler_of_another_class_may_be_named(spoil: Path, tmp_path: Path) -> None:
    """Guards checkpoints whose scheduler is of a class nobody else has, with the same schedule."""
    edit(spoil / "model_index.json", scheduler=["diffusers", "DEISMultistepScheduler"])
    assert "DEISMultistepScheduler" in examine(open_checkpoint(spoil, "x")).refused[0]
    found = examine(asked(spoil, "EulerDiscreteScheduler"))
    assert found.refused == []
    assert found.model is not None
    assert found.model.parameters["scheduler"].default == "euler"
    own = json.loads((spoil / "scheduler/scheduler_config.json").read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**own, "_class_name": "DDIMScheduler", "steps_offset": 7}))
    found = examine(asked(spoil, str(other)))
    assert found.model is not None
    assert (found.model.parameters["scheduler"].default, found.model.scheduler.config["steps_offset"]) == ("ddim", 7)
    edit(other, beta_end=2)
    with pytest.raises(CheckpointError, match="beta_end is 2"):
        asked(spoil, str(other))
    with pytest.raises(CheckpointError, match="neither a file nor a class that is supported: PNDMScheduler"):
        asked(spoil, "Euler")


def test_inspect_says_what_is_there(micro: Path, gesso_export: Command) -> None:
    code, output = gesso_export("inspect", micro)
    assert code == 0
    for words in ("stable-diffusion", "native", "scheduler_config.json says epsilon", "UNet2DConditionModel", "F32",
                  "77 tokens of 49,408", "nothing was executed"):  # fmt: skip
        assert words in output
    code, output = gesso_export("inspect", micro, "--json")
    report = json.loads(output)
    assert code == 0
    assert report["refused"] == []
    assert report["native_inpainting"] is True
    assert report["prediction_type"] == {
        "value": "epsilon",
        "sources": [{"value": "epsilon", "source": "scheduler_config.json"}],
    }
    assert report["networks"]["text_encoder"]["layers"] == 1
    assert report["vae"]["latent_channels"] == 4
    assert report["exports"]["networks"] == ["text_encoder", "unet", "vae_encoder", "vae_decoder"]
    assert set(report["exports"]["bytes"]) == {"fp32", "fp16", "int8"}


def test_inspect_reads_a_single_file_without_unpacking_it(
    fresh_bundles: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = made(fresh_bundles, "sdxl-inpainting")
    link = tmp_path / "sdxl.safetensors"
    link.symlink_to(file)
    (tmp_path / "sdxl.yaml").write_text("target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling")
    code, output = gesso_export("inspect", link, "--json")
    report = json.loads(output)
    assert code == 0
    assert (report["form"], report["family"], report["native_inpainting"]) == (
        "single file",
        "stable-diffusion-xl",
        True,
    )
    assert report["prediction_type"]["sources"] == [{"value": "v_prediction", "source": "sdxl.yaml"}]
    assert report["networks"]["text_encoder_2"]["layers"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sdxl.safetensors", "sdxl.yaml"]


def test_inspect_gives_every_reason(spoil: Path, gesso_export: Command) -> None:
    (spoil / "tokenizer/vocab.json").unlink()
    one_more_layer(spoil)
    add(spoil / UNET, {"modelspec.prediction_type": "v"})
    (spoil / "vae/diffusion_pytorch_model.safetensors").unlink()
    code, output = gesso_export("inspect", spoil)
    assert code == 2
    refused = [line for line in output.splitlines() if line.startswith("refused: ")]
    for named in (
        "has no vocabulary",
        "encoder.layers.1",
        "modelspec.prediction_type",
        "vae: there are no safetensors",
    ):
        assert any(named in line for line in refused), refused
    assert "Traceback" not in output


def test_a_file_is_refused_by_its_header_before_it_is_unpacked(
    fresh_bundles: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with gigabytes, or with what is asked of them, is known in seconds."""
    _, file = made(fresh_bundles, "sdxl-inpainting")
    monkeypatch.setattr("gesso_export.source.convert", lambda *_, **__: pytest.fail("it was unpacked"))
    out = tmp_path / "bundle"
    code, output = gesso_export(file, "--out", out, "--precision", "int8")
    assert (code, "--precision int8 is for stable-diffusion" in output) == (2, True), output
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    code, output = gesso_export(file, "--out", out)
    assert (code, "the bundle needs" in output) == (2, True), output
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_not_written_into_what_is_read(spoil: Path, gesso_export: Command) -> None:
    """Nor in place of a bundle that holds it: --force would remove the checkpoint."""
    code, output = gesso_export(spoil, "--out", spoil / "bundle")
    assert (code, "is inside" in output) == (2, True), output
    outer = spoil.parent / "bundle"
    outer.mkdir()
    (outer / "bundle.json").write_text("{}")
    moved = spoil.rename(outer / "checkpoint")
    code, output = gesso_export(moved, "--out", outer, "--force")
    assert (code, "cannot be replaced" in output) == (2, True), output


def test_what_was_swept_is_said_and_what_did_not_verify(
    micro: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise VerificationError("unet: another number")

    (tmp_path / ".bundle.7.partial").mkdir()
    monkeypatch.setattr("gesso_export.export.export", fails)
    code, output = gesso_export(micro, "--out", tmp_path / "bundle")
    assert code == 1
    assert ".bundle.7.partial: removed, a killed export left it" in output
    assert "unet: another number; no bundle was written" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["/no/such/folder", "/dev/null", "x" * 5000, "owner/name", "loop"])
def test_inspect_refuses_what_is_no_checkpoint(
    source: str, gesso_export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    code, output = gesso_export("inspect", source)
    assert code == 2
    assert "Traceback" not in output


def test_inspect_of_a_directory_that_is_neither_says_both(gesso_export: Command, tmp_path: Path) -> None:
    code, output = gesso_export("inspect", tmp_path)
    assert code == 2
    assert "is not a bundle" in output
