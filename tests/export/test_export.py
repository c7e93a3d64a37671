"""The export as a whole: replacing, repeating, interrupting, half precision, and what it can load."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import bundles
from gesso_export.bundle import staging
from gesso_export.bundle.manifest import read
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.checkpoint.loading import load_model
from gesso_export.checkpoint.weights import find_weights
from gesso_export.errors import OutputError

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def old_bundle(tmp_path: Path) -> Path:
    """Something --force may replace."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("old")
    return folder


def test_force_replaces_and_the_same_checkpoint_gives_the_same_bytes(
    other: tuple[Path, Path], old_bundle: Path, gesso_export: Command
) -> None:
    """Timestamps, dictionary orders or memory addresses in an artefact make its hash worthless as a key."""
    checkpoint, first = other
    code, output = gesso_export(checkpoint, "--out", old_bundle, "--force", "--name", first.name)
    assert code == 0, output
    assert [path.name for path in old_bundle.parent.iterdir()] == ["bundle"]
    assert (old_bundle / "bundle.json").read_bytes() == (first / "bundle.json").read_bytes()
    for stage in ("weights", "text_encoder", "unet", "vae_encoder", "vae_decoder"):
        assert any(line.startswith(stage) and " s" in line for line in output.splitlines())


def test_half_precision_weights_with_float32_ports(fresh_bundles: Path, gesso_export: Command) -> None:
    _, bundle = bundles.export(fresh_bundles, precision="fp16", **bundles.MICRO)
    manifest = read(bundle)
    for name, network in manifest.networks.items():
        assert network.precision == "fp16"
        assert {port.dtype for port in [*network.inputs.values(), *network.outputs.values()]} <= {"float32", "int64"}
        graph = onnx.load(bundle / network.file, load_external_data=False).graph
        large = {tensor.data_type for tensor in graph.initializer if np.prod(tensor.dims) > 100}
        assert onnx.TensorProto.FLOAT16 in large, name
        assert onnx.TensorProto.FLOAT not in large, name
    assert gesso_export("verify", bundle)[0] == 0


class Interruption(BaseException):
    """Stands for Ctrl-C, which is no Exception either."""


@pytest.mark.parametrize("error", [Interruption(), RuntimeError("bug"), OSError(28, "full")])
def test_a_block_that_fails_leaves_the_old_one_and_nothing_else(old_bundle: Path, error: BaseException) -> None:
    with pytest.raises((Interruption, RuntimeError, OutputError)), staging.staged(old_bundle, force=True) as folder:  # noqa: PT012
        (folder / "unet.onnx").write_text("half")
        raise error
    assert [path.name for path in old_bundle.parent.iterdir()] == ["bundle"]
    assert (old_bundle / "bundle.json").read_text() == "old"


def test_the_old_one_stays_until_the_new_one_is_whole(old_bundle: Path) -> None:
    with staging.staged(old_bundle, force=True) as folder:
        (folder / "bundle.json").write_text("new")
        assert (old_bundle / "bundle.json").read_text() == "old"
    assert (old_bundle / "bundle.json").read_text() == "new"
    assert [path.name for path in old_bundle.parent.iterdir()] == ["bundle"]


def test_a_replacement_that_cannot_be_renamed_puts_the_old_one_back(
    old_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_on_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(OutputError), staging.staged(old_bundle, force=True) as folder:
        (folder / "bundle.json").write_text("new")
    assert (old_bundle / "bundle.json").read_text() == "old"
    assert [path.name for path in old_bundle.parent.iterdir()] == ["bundle"]


def test_of_two_exports_to_one_place_the_first_wins(tmp_path: Path) -> None:
    """The check at the start is long past when a slow export ends."""
    out = tmp_path / "bundle"
    with pytest.raises(OutputError, match="exists"), staging.staged(out) as folder:  # noqa: PT012
        (folder / "bundle.json").write_text("second")
        out.mkdir()
        (out / "bundle.json").write_text("first")
    assert (out / "bundle.json").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.finished-1"]
    assert (tmp_path / "bundle.finished-1" / "bundle.json").read_text() == "second"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(number: signal.Signals, micro: Path, tmp_path: Path) -> None:
    """The real command, killed while it works."""
    out = tmp_path / "bundles" / "new"
    command = [sys.executable, "-c", "import sys; from gesso_export.cli import main; sys.exit(main())"]
    # A shell starts background jobs with SIGINT ignored, and so would its children; this is what a terminal gives.
    process = subprocess.Popen(
        [*command, str(micro), "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("bundles/.*.partial/tokenizer/tokenizer.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "gesso-export: interrupted; nothing was written"
    assert not list(tmp_path.iterdir())


def state(checkpoint: Path, component: str) -> dict[str, torch.Tensor]:
    part = open_checkpoint(checkpoint, "x").components[component]
    loaded: dict[str, torch.Tensor] = load_model(part, find_weights(part)).state_dict()
    return loaded


@pytest.fixture
def same(micro: Path, spoil: Path) -> Iterator[Path]:
    """A checkpoint to store in another way; afterwards its networks must load as before."""
    yield spoil
    for component in ("text_encoder", "unet", "vae"):
        before, after = state(micro, component), state(spoil, component)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_sharded_weights_are_found(same: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(same / "unet")
    shutil.rmtree(same / "unet")
    unet.save_pretrained(same / "unet", max_shard_size="300KB")
    assert len(list((same / "unet").glob("*.safetensors"))) > 1


def test_a_half_precision_variant_is_taken_when_there_is_no_other(spoil: Path) -> None:
    weights = spoil / "unet/diffusion_pytorch_model.safetensors"
    before = state(spoil, "unet")
    save_file(
        {name: tensor.half() for name, tensor in load_file(weights).items()},
        weights.with_name("diffusion_pytorch_model.fp16.safetensors"),
    )
    assert state(spoil, "unet")["conv_in.weight"].equal(before["conv_in.weight"]), "the full one is preferred"
    weights.unlink()
    after = state(spoil, "unet")
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert all(after[name].equal(before[name].half().float()) for name in before)


def test_the_names_old_vaes_gave_their_attention_are_understood(same: Path) -> None:
    """The published Stable Diffusion 1.5 is stored with them."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    path = same / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for new_name, old_name in old.items():
        tensors = {name.replace(new_name, old_name): tensor for name, tensor in tensors.items()}
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, path)


def test_the_names_old_text_encoders_gave_their_tensors_are_understood(same: Path) -> None:
    """Every published checkpoint is stored with this prefix, and the older ones with their position ids."""
    path = same / "text_encoder/model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file({**tensors, "text_model.embeddings.position_ids": torch.arange(77)[None]}, path)
