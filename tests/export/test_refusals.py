"""What gesso-export refuses: one line that names the trouble, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gesso_export.bundle import staging
from gesso_export.checkpoint import hub
from gesso_export.graph import trace

Command = Callable[..., tuple[int, str]]
UNET = "unet/diffusion_pytorch_model.safetensors"


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def poison(path: Path, value: float) -> None:
    tensors = load_file(path)
    tensors["conv_out.weight"][0, 0, 1, 1] = value
    save_file(tensors, path)


def lose_tensor(path: Path, name: str) -> None:
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)


def to_pickle(root: Path) -> None:
    torch.save({}, root / "unet/diffusion_pytorch_model.bin")
    (root / UNET).unlink()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (to_pickle, "pickle (diffusion_pytorch_model.bin)"),
    "no weights": (lambda root: (root / UNET).unlink(), "unet: there are no safetensors"),
    "cut weights": (lambda root: (root / UNET).write_bytes((root / UNET).read_bytes()[:-9]), "cannot be read"),
    "NaN weight": (lambda root: poison(root / UNET, float("nan")), "tensor conv_out.weight holds NaN"),
    "infinite weight": (lambda root: poison(root / UNET, float("inf")), "tensor conv_out.weight holds NaN"),
    "lost tensor": (
        lambda root: lose_tensor(root / "text_encoder/model.safetensors", "final_layer_norm.weight"),
        "text_encoder: the weights have no tensor",
    ),
    "no model_index": (lambda root: (root / "model_index.json").unlink(), "has no model_index.json"),
    "broken model_index": (lambda root: (root / "model_index.json").write_text("{"), "cannot be read"),
    "no vae folder": (lambda root: shutil.rmtree(root / "vae"), "has no config.json"),
    "no vae in the index": (lambda root: edit(root / "model_index.json", vae=None), "has no vae"),
    "other pipeline": (
        lambda root: edit(root / "model_index.json", _class_name="KandinskyPipeline"),
        "pipeline KandinskyPipeline is not supported; supported are FluxFillPipeline",
    ),
    "other unet class": (lambda root: edit(root / "model_index.json", unet=["diffusers", "UNet3D"]), "UNet3D"),
    "class of another package": (
        lambda root: edit(root / "model_index.json", unet=["evil", "UNet2DConditionModel"]),
        "evil.UNet2DConditionModel",
    ),
    "extra component": (
        lambda root: edit(root / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        "text_encoder_2",
    ),
    "other scheduler": (
        lambda root: edit(root / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "FlowMatchEulerDiscreteScheduler",
    ),
    "prediction of the sample": (
        lambda root: edit(root / "scheduler/scheduler_config.json", prediction_type="sample"),
        "prediction_type is 'sample'",
    ),
    "thresholding": (lambda root: edit(root / "scheduler/scheduler_config.json", thresholding=True), "thresholding"),
    "class embeddings": (lambda root: edit(root / "unet/config.json", num_class_embeds=10), "num_class_embeds"),
    "added embeddings": (
        lambda root: edit(root / "unet/config.json", addition_embed_type="text_time"),
        "addition_embed_type",
    ),
    "guidance embedding": (lambda root: edit(root / "unet/config.json", time_cond_proj_dim=256), "time_cond_proj_dim"),
    "GLIGEN": (lambda root: edit(root / "unet/config.json", attention_type="gated"), "attention_type"),
    "depth model": (lambda root: edit(root / "unet/config.json", in_channels=5), "in_channels is 5"),
    "two widths of text": (lambda root: edit(root / "unet/config.json", cross_attention_dim=64), "cross_attention_dim"),
    "oblong native size": (lambda root: edit(root / "unet/config.json", sample_size=[64, 96]), "sample_size"),
    "latent statistics": (lambda root: edit(root / "vae/config.json", latents_mean=[0, 0, 0, 0]), "latents_mean"),
    "attention mask": (lambda root: edit(root / "text_encoder/config.json", use_attention_mask=True), "attention_mask"),
    "no tokenizer config": (lambda root: (root / "tokenizer/tokenizer_config.json").unlink(), "tokenizer_config.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_with_nothing_left_behind(
    case: str, spoil: Path, tmp_path: Path, gesso_export: Command
) -> None:
    change, named = REFUSED[case]
    change(spoil)
    before = set(tmp_path.iterdir())
    code, output = gesso_export(spoil, "--out", tmp_path / "new" / "bundle")
    last = output.splitlines()[-1]
    assert code == 2
    assert last.startswith("gesso-export: error: ")
    assert named in last
    assert "Traceback" not in output
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/no/such/folder"], "not a directory"),
        (["owner/name"], "--revision"),
        (["owner/name", "--revision", "main"], "--revision"),
        ([".", "--revision", "0" * 40], "--revision is for hub ids"),
        ([".", "--name", "../up"], "'../up' is no name"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], named: str, tmp_path: Path, gesso_export: Command) -> None:
    code, output = gesso_export(*arguments, "--out", tmp_path / "bundle")
    assert code == 2
    assert named in output
    assert not list(tmp_path.iterdir())


def test_existing_output_is_refused_before_anything_is_read(tmp_path: Path, gesso_export: Command) -> None:
    (tmp_path / "bundle").mkdir()
    code, output = gesso_export("/no/such/folder", "--out", tmp_path / "bundle")
    assert code == 2
    assert "exists; --force replaces it" in output


def test_force_does_not_replace_what_is_no_bundle(micro: Path, tmp_path: Path, gesso_export: Command) -> None:
    """--out /home/me --force must not delete a home directory."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "photo.jpg").write_text("dear")
    code, output = gesso_export(micro, "--out", tmp_path / "precious", "--force")
    assert code == 2
    assert "is not a bundle" in output
    assert (tmp_path / "precious" / "photo.jpg").read_text() == "dear"


def test_no_space_is_refused_up_front(
    micro: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    code, output = gesso_export(micro, "--out", tmp_path / "bundle")
    assert code == 2
    assert "10 MB free" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "named"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "cannot be written")])
def test_a_disk_that_fails_midway_leaves_nothing(
    number: int, named: str, micro: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_network: object, _module: object, _inputs: object, path: Path) -> None:
        path.write_text("half a graph")
        raise OSError(number, "the disk")

    monkeypatch.setattr(trace, "write", full)
    code, output = gesso_export(micro, "--out", tmp_path / "bundle")
    assert code == 2
    assert named in output
    assert not list(tmp_path.iterdir())


def test_a_graph_torch_cannot_trace_is_an_error_not_a_traceback(
    micro: Path, tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unsupported operator\nwith a long story")

    monkeypatch.setattr(torch.export, "export", fail)
    code, output = gesso_export(micro, "--out", tmp_path / "bundle")
    assert code == 2
    assert "text_encoder cannot be traced: unsupported operator" in output
    assert "long story" not in output
    assert not list(tmp_path.iterdir())


def test_the_hubs_errors_arrive_as_ours(tmp_path: Path, gesso_export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> list[str]:
        raise ConnectionError("the hub is down\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    code, output = gesso_export("owner/name", "--revision", "0" * 40, "--out", tmp_path / "bundle")
    assert code == 2
    assert output == "gesso-export: error: owner/name cannot be fetched: the hub is down\n"


def test_of_a_repository_only_one_set_of_safe_weights_is_fetched() -> None:
    """Published repositories hold the same weights as pickles, in half, without EMA; together tens of gigabytes."""
    needed = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",  # there is no other
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    unneeded = [
        "README.md",
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "modeling.py",
        "unet/custom.py",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "safety_checker/model.safetensors",
    ]
    assert hub.wanted([*unneeded, *needed]) == needed
