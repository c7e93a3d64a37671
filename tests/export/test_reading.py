"""How a checkpoint's files are read: bounded, regular, and refused in one line; nothing hangs or is passed over."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bundles
from gesso_export import families
from gesso_export.checkpoint import embeddings, fit, hub
from gesso_export.checkpoint.bounds import table
from gesso_export.checkpoint.checkpoint import open_checkpoint
from gesso_export.checkpoint.header import read_header
from gesso_export.checkpoint.loading import load_model
from gesso_export.checkpoint.strict import parse_object, read_json
from gesso_export.checkpoint.weights import find_weights
from gesso_export.errors import CheckpointError, one_line
from gesso_export.examination import examine
from gesso_export.published.models import MODELS
from gesso_export.single_file.layout import count
from original_layout import KINDS

CONFIGS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
           "tokenizer/tokenizer_config.json", "model_index.json")  # fmt: skip
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
HOSTILE: tuple[Any, ...] = (0, -1, 1e12, 10**8, float("nan"), float("inf"), 10**400, "x", None, [],
                            [10**9], [32] * 64, {}, True)  # fmt: skip


def looked_at(root: Path, component: str) -> None:
    """As an export looks, at what the config of this component decides."""
    checkpoint = open_checkpoint(root, "x")
    model = families.describe(checkpoint)
    if component in model.weights:
        fit.check(checkpoint.components[component], model.weights[component])


@pytest.mark.parametrize("file", CONFIGS)
def test_no_value_of_a_config_is_a_traceback_or_has_no_end(file: str, spoil: Path) -> None:
    """Every key of every config, of every hostile value: a line that names the file or the part, or a right reading."""
    path = spoil / file
    plain = path.read_text()
    for key in json.loads(plain):
        for value in HOSTILE:
            path.write_text(json.dumps({**json.loads(plain), key: value}))
            with contextlib.suppress(CheckpointError):  # and nothing else
                looked_at(spoil, path.parent.name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdxl", "flux-fill"])
def test_nor_is_any_of_the_other_families(kind: str, fresh_bundles: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles.checkpoint(fresh_bundles, **KINDS[kind]), tmp_path / kind))
    for path in sorted(folder.glob("*/*config.json")):
        test_no_value_of_a_config_is_a_traceback_or_has_no_end(str(path.relative_to(folder)), folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "sample_size", 10**12),
        ("unet/config.json", "sample_size", -1),
        ("unet/config.json", "sample_size", 0),
        ("unet/config.json", "layers_per_block", 10**8),
        ("unet/config.json", "transformer_layers_per_block", 64),
        ("unet/config.json", "norm_eps", float("nan")),
        ("unet/config.json", "block_out_channels", 32),
        ("unet/config.json", "mid_block_type", None),
        ("unet/config.json", "_class_name", "UNet3DConditionModel"),
        ("vae/config.json", "scaling_factor", 0),
        ("vae/config.json", "scaling_factor", float("inf")),
        ("vae/config.json", "use_quant_conv", False),
        ("text_encoder/config.json", "num_hidden_layers", 10**8),
        ("text_encoder/config.json", "num_hidden_layers", "1"),
        ("text_encoder/config.json", "vocab_size", 10**6),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 0),
        ("scheduler/scheduler_config.json", "beta_end", 1.5),
        ("scheduler/scheduler_config.json", "timestep_spacing", "sideways"),
        ("tokenizer/tokenizer_config.json", "model_max_length", 0),
    ],
)
def test_numbers_have_bounds(file: str, key: str, value: object, spoil: Path) -> None:
    path = spoil / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=rf"{key}|{path.parent.name}"):
        looked_at(spoil, path.parent.name)


def test_the_published_configs_are_in_their_bounds() -> None:
    """Guards the tables against being too narrow."""
    for model in MODELS.values():
        for component in model.checkpoint.components.values():
            for key, value in component.config().items():
                if key in table(component.class_name):
                    value = list(value) if isinstance(value, tuple) else value
                    assert table(component.class_name)[key].holds(value), (model.checkpoint.name, key, value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[" * 100_000, "cannot be read"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "cannot be read"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested deeper"),
        ('{"a": 1, "a": 2}', "'a' comes twice"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": -Infinity}', "not finite"),
        ('{"a": 1' + "0" * 50 + "}", "beyond any bound"),
        ("[1]", "not a JSON object"),
    ],
)
def test_json_holds_no_surprises(text: str, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        parse_object(text, "x")


def test_what_libraries_themselves_write_is_read() -> None:
    """diffusers writes -Infinity for DPMSolver, transformers 10^30 for a tokenizer without a bound."""
    assert parse_object('{"lambda_min_clipped": -Infinity, "model_max_length": 1000000000000000019884624838656}', "x")


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_a_config(mark: str, spoil: Path) -> None:
    """Guards files that went through a Windows editor; the libraries read what we hand them, not these."""
    for file in [*CONFIGS, "tokenizer/vocab.json", "tokenizer/merges.txt"]:
        (spoil / file).write_text((spoil / file).read_text(encoding="utf-8"), encoding=mark)
        assert (spoil / file).read_bytes()[:2] in (codecs.BOM_UTF8[:2], codecs.BOM_UTF16)
    assert examine(open_checkpoint(spoil, "x")).refused == []


def pipe(path: Path) -> None:
    os.mkfifo(path)


def door(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's name is short
        server.bind(path.name)


@pytest.mark.parametrize("kind", [pipe, door, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("file", ["unet/config.json", WEIGHTS, "tokenizer/vocab.json"])
def test_only_regular_files_are_opened(
    kind: Callable[[Path], None], file: str, spoil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe in place of a file would be waited for for ever, and /dev/zero has no end."""
    monkeypatch.chdir(spoil)
    (spoil / file).unlink()
    kind(spoil / file)
    refused = examine(open_checkpoint(spoil, "x")).refused
    assert any("is not a regular file" in reason for reason in refused), refused


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", WEIGHTS, "tokenizer/merges.txt"])
def test_git_lfs_pointers_are_told(file: str, spoil: Path) -> None:
    (spoil / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438354725\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        examine(open_checkpoint(spoil, "x")).check()


def test_a_config_as_large_as_a_disk_is_not_read(spoil: Path) -> None:
    with (spoil / "unet/config.json").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="the most that is read is"):
        read_json(spoil / "unet", "config.json")


@pytest.mark.parametrize("shape", [[0, 10**15], [10**15, 0, 1]])
def test_a_tensor_without_numbers_says_no_size(shape: list[int], tmp_path: Path) -> None:
    """Whatever its other sizes are, the file's size bounds them not."""
    header = json.dumps({"img_in.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"img_in\.weight is empty"):
        read_header(tmp_path / "a.safetensors")


def test_there_are_no_more_tensors_and_layers_than_any_model_has(tmp_path: Path) -> None:
    """A header of 32 MB names 400,000 layers; each would be looked at, converted and described."""
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"double_blocks.{number}": one for number in range(20_001)}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="has 20001 tensors"):
        read_header(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no model has more than 128"):
        count({f"double_blocks.{number}": (1,) for number in range(129)}, "double_blocks.")


def test_a_textual_inversion_is_a_small_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"embedding cat: .* is not a regular file"):
        embeddings.read(f"cat={path}")
    path.unlink()
    save_file({"emb_params": torch.zeros(2, 2**20)}, path)
    with pytest.raises(CheckpointError, match="it is no embedding"):
        embeddings.read(f"cat={path}")


def test_a_tensor_of_two_shards_is_refused(spoil: Path) -> None:
    """Which of them is meant, nobody knows."""
    tensors = load_file(spoil / WEIGHTS)
    (spoil / WEIGHTS).unlink()
    for name in ("a", "b"):
        save_file(tensors, spoil / "unet" / f"{name}.safetensors", {"format": "pt"})
    index = {"weight_map": {"conv_in.weight": "a.safetensors", "conv_in.bias": "b.safetensors"}}
    (spoil / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused = examine(open_checkpoint(spoil, "x")).refused
    assert any("is in another shard too" in reason for reason in refused), refused


@pytest.mark.parametrize("length", [0, 2**63, 2**32, 10])
def test_the_header_of_weights_is_bounded(length: int, spoil: Path) -> None:
    content = (spoil / WEIGHTS).read_bytes()
    (spoil / WEIGHTS).write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(CheckpointError, match=r"cannot be read|header"):
        read_header(spoil / WEIGHTS)


def test_a_message_is_one_line_of_printable_characters() -> None:
    """Names of keys and tensors are a stranger's."""
    line = one_line(CheckpointError("a\nb\x1b[31m" + "c" * 10_000))
    assert line.isprintable()
    assert line.startswith("a b")
    assert len(line) < 1100


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-0000{}-of-00002.safetensors"),
        ("diffusion_pytorch_model.fp16.safetensors.index.json",
         "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json",
         "diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors"),
        ("model.fp16.safetensors.index.json", "model-0000{}-of-00002.fp16.safetensors"),
    ],
)  # fmt: skip
def test_shards_are_read_wherever_their_variant_is_named(index: str, shard: str, spoil: Path) -> None:
    """huggingface/accelerate#2946: half-precision shards with an index were "no weights"; names differ by library."""
    before = load_model(open_checkpoint(spoil, "x").components["unet"], find_weights(unet(spoil))).state_dict()
    tensors = load_file(spoil / WEIGHTS)
    (spoil / WEIGHTS).unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    for number, names in enumerate(halves, start=1):
        save_file({name: tensors[name] for name in names}, spoil / "unet" / shard.format(number), {"format": "pt"})
    weight_map = {name: shard.format(number) for number, names in enumerate(halves, 1) for name in names}
    (spoil / "unet" / index).write_text(json.dumps({"weight_map": weight_map}))
    weights = find_weights(unet(spoil))
    assert len(weights.files) == 2
    after = load_model(unet(spoil), weights).state_dict()
    assert all((after[name] == tensor).all() for name, tensor in before.items())
    names = [f"unet/{path.name}" for path in (spoil / "unet").iterdir()]
    assert set(names) <= set(hub.wanted(names))
    (spoil / "unet" / shard.format(2)).unlink()
    with pytest.raises(CheckpointError, match="weights are missing"):
        find_weights(unet(spoil))


def unet(root: Path) -> Any:
    return open_checkpoint(root, "x").components["unet"]


@pytest.mark.parametrize("name", ["../vae/x.safetensors", "/etc/passwd", 7])
def test_an_index_names_files_of_its_folder(name: object, spoil: Path) -> None:
    (spoil / WEIGHTS).rename(spoil / "unet/x.safetensors")
    (spoil / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="does not name files of its folder"):
        find_weights(unet(spoil))


def test_what_is_there_is_said_when_there_are_no_weights(spoil: Path) -> None:
    (spoil / WEIGHTS).rename(spoil / "unet/my_unet.safetensors")
    with pytest.raises(CheckpointError, match=r"there is config\.json, my_unet\.safetensors"):
        find_weights(unet(spoil))


def test_the_hubs_cache_is_read_by_its_snapshot(spoil: Path, tmp_path: Path) -> None:
    """People give the folder they see, models--owner--name; the snapshot of its main branch is what they mean."""
    cache = tmp_path / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(spoil, cache / "snapshots" / commit)
    (cache / "blobs").mkdir()
    with pytest.raises(CheckpointError, match=r"name one of its snapshots: a+, b+"):
        open_checkpoint(cache, "x")
    with pytest.raises(CheckpointError, match=r"name one of its repositories: models--owner--name"):
        open_checkpoint(tmp_path, "x")
    with pytest.raises(CheckpointError, match=r"has no model_index\.json, which a checkpoint has; there is config"):
        open_checkpoint(spoil / "unet", "x")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b" * 40)
    assert open_checkpoint(cache / "snapshots", "x").revision == "b" * 40
    found = open_checkpoint(cache, "x")
    assert (found.root.name, found.revision) == ("b" * 40, "b" * 40)
