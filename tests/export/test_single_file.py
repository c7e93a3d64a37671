"""Single .safetensors files in the original layout: recognised by their header, and converted bit by bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bundles
from gesso_export import cli, single_file, stable_diffusion
from gesso_export.checkpoint import find_weights, open_checkpoint
from gesso_export.errors import CheckpointError

# What the original layout takes for granted and no header says: 32 groups, heads of 64 channels (or 8 of them).
SIZES: dict[str, Any] = {"unet_groups": 32, "vae_groups": 32, "vae_channels": [32, 32, 64, 64], "text_hidden": 64,
                         "text_heads": 1, "sample_size": 64}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "sd1": {**SIZES, "in_channels": 4, "unet_channels": [32, 64, 64], "unet_heads": 8, "unet_layers": 2},
    "sd1-inpainting": {**SIZES, "unet_channels": [32, 64], "unet_heads": 8, "half": True},
    "sd2": {**SIZES, "in_channels": 4, "openclip": True, "unet_channels": [64, 128], "unet_heads": [1, 2],
            "prediction_type": "v_prediction", "sample_size": 96},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.shared_root(tmp_path_factory)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, root: Path) -> tuple[str, Path, Path]:
    """(kind, the checkpoint as a directory, the same as a single file)"""
    folder = bundles.checkpoint(root, **KINDS[request.param])
    file = root / f"{request.param}.safetensors"
    if not file.exists():
        save_file(original(folder, bool(KINDS[request.param].get("openclip"))), file)
    return request.param, folder, file


def test_a_single_file_is_the_directory_it_was_made_from(case: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Guards every tensor and every number of the configs that matters; bits and precision, not values about equal."""
    kind, folder, file = case
    single_file.convert(file, tmp_path, "v_prediction" if kind == "sd2" else None)
    for name in ("unet", "vae", "text_encoder"):
        theirs, ours = stored(folder / name), stored(tmp_path / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert ours[key].dtype == tensor.dtype
            assert torch.equal(ours[key], tensor), key
    expected = stable_diffusion.describe(open_checkpoint(folder, "x"))
    found = stable_diffusion.describe(open_checkpoint(tmp_path, "x"))
    assert [network.inputs for network in found.networks] == [network.inputs for network in expected.networks]
    assert (found.vae, found.size, found.sampler) == (expected.vae, expected.size, expected.sampler)
    assert found.scheduler.config["prediction_type"] == expected.scheduler.config["prediction_type"]
    for file_name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        assert (tmp_path / "tokenizer" / file_name).read_text() == (folder / "tokenizer" / file_name).read_text()
    for network, other in zip(found.networks, expected.networks, strict=True):
        inputs = [torch.from_numpy(value) for value in network.draw_inputs(2).values()]
        with torch.inference_mode():
            assert torch.equal(network.load()(*inputs), other.load()(*inputs)), network.name
    assert find_weights(found_component(tmp_path)).parameters() > 0


def found_component(folder: Path) -> Any:
    return open_checkpoint(folder, "x").components["unet"]


def test_the_command_takes_a_single_file(
    case: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the way from the command line, and that nothing is left beside the bundle."""
    kind, _, file = case
    seen: list[str] = []

    def export(checkpoint: Any, out: Path, **options: Any) -> None:
        seen.append(f"{checkpoint.name} {checkpoint.pipeline}")
        assert (checkpoint.root / "unet" / "config.json").exists()

    monkeypatch.setattr("gesso_export.export.export", export)
    options = ["--prediction-type", "v_prediction"] if kind == "sd2" else []
    assert cli.main([str(file), "--out", str(tmp_path / "bundle"), *options]) == 0
    pipeline = "StableDiffusionInpaintPipeline" if kind == "sd1-inpainting" else "StableDiffusionPipeline"
    assert seen == [f"{file.name} {pipeline}"]
    assert list(tmp_path.iterdir()) == []


def test_a_stable_diffusion_2_file_does_not_say_what_it_predicts(root: Path) -> None:
    """Guards against guessing: with the wrong prediction type every picture is noise."""
    openclip = {f"{single_file.OPENCLIP}x": (1,), f"{single_file.UNET}input_blocks.0.0.weight": (32, 4, 3, 3)}
    with pytest.raises(CheckpointError, match="give --prediction-type"):
        single_file.detect({**openclip, f"{single_file.VAE}x": (1,)})


UNET_KEY = f"{single_file.UNET}input_blocks.0.0.weight"
NOT_SERVED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "sdxl": ({"conditioner.embedders.1.model.ln_final.weight": (1280,)}, "Stable Diffusion XL, which is not supported"),
    "flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "FLUX, which is not supported"),
    "lora": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (4, 4)}, "a LoRA"),
    "controlnet": ({"control_model.time_embed.0.weight": (4, 4)}, "a ControlNet"),
    "a vae alone": ({"first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3)}, "no Stable Diffusion UNet"),
    "a unet alone": ({UNET_KEY: (32, 4, 3, 3)}, "no VAE; a whole checkpoint is needed"),
    "no text encoder": ({UNET_KEY: (32, 4, 3, 3), f"{single_file.VAE}x": (1,)}, "no text encoder"),
    "pix2pix": ({UNET_KEY: (32, 8, 3, 3), f"{single_file.VAE}x": (1,), f"{single_file.CLIP}x": (1,)}, "8 channels"),
    "half of one": ({UNET_KEY: (32, 4, 3, 3), f"{single_file.VAE}x": (1,), f"{single_file.CLIP}x": (1,)}, "lacks"),
    "nothing": ({}, "no Stable Diffusion UNet"),
}


@pytest.mark.parametrize("kind", NOT_SERVED)
def test_what_is_not_served_is_told_by_its_name(kind: str) -> None:
    """Guards the message: people have many kinds of .safetensors files, and they all look alike from outside."""
    shapes, message = NOT_SERVED[kind]
    with pytest.raises(CheckpointError, match=message):
        single_file.detect(shapes)


def test_pickles_and_broken_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a checkpoint that runs code, and against a half-loaded download."""
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    for name, words in (("model.ckpt", "is a pickle"), ("half.safetensors", "cannot be read"),
                        ("gone.safetensors", "cannot be read")):  # fmt: skip
        assert cli.main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


# The other way, by the published layout


def stored(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return {key.removeprefix("text_model."): tensor for key, tensor in load_file(file).items()}


def original(folder: Path, openclip: bool) -> dict[str, torch.Tensor]:
    """A diffusers directory's tensors under their names in the original layout."""
    tensors = dict(unet_original(stored(folder / "unet"), json.loads((folder / "unet/config.json").read_text())))
    tensors |= dict(vae_original(stored(folder / "vae"), json.loads((folder / "vae/config.json").read_text())))
    text = stored(folder / "text_encoder")
    tensors |= dict(openclip_original(text) if openclip else clip_original(text))
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip


def unet_original(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    per_level, levels = config["layers_per_block"] + 1, len(config["block_out_channels"])
    attended = {key.split(".attentions.")[0] for key in tensors if ".attentions." in key}
    for key, tensor in tensors.items():
        parts = key.split(".")
        stem, kind = ".".join(parts[:-1]), parts[-1]
        if stem in UNET_ENDS:
            name = f"{UNET_ENDS[stem]}.{kind}"
        else:
            block, what, rest = int(parts[1]) if parts[1].isdigit() else 0, parts[2], parts[4:]
            if parts[0] == "mid_block":
                what, number, rest = parts[1], int(parts[2]), parts[3:]
                place = f"middle_block.{1 if what == 'attentions' else 2 * number}"
            elif parts[0] == "down_blocks":
                number = int(parts[3])
                place = f"input_blocks.{per_level * block + number + 1}.{1 if what == 'attentions' else 0}"
                if what == "downsamplers":
                    place, rest = f"input_blocks.{per_level * (block + 1)}.0", ["op", rest[-1]]
            else:
                number = int(parts[3])
                place = f"output_blocks.{per_level * block + number}.{1 if what == 'attentions' else 0}"
                if what == "upsamplers":
                    after = 2 if f"up_blocks.{block}" in attended else 1
                    place, rest = f"output_blocks.{per_level * block + per_level - 1}.{after}", ["conv", rest[-1]]
            if what == "resnets":
                rest = [RESNET[rest[0]], rest[1]]
            name = ".".join([place, *rest])
        assert levels
        yield single_file.UNET + name, tensor


VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_original(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    levels = len(config["block_out_channels"])
    for key, tensor in tensors.items():
        name = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        parts = name.split(".")
        if parts[1] == "down_blocks":
            part = {"resnets": f"block.{parts[4]}", "downsamplers": "downsample"}[parts[3]]
            name = ".".join(["encoder.down", parts[2], part, *parts[5:]])
        elif parts[1] == "up_blocks":
            part = {"resnets": f"block.{parts[4]}", "upsamplers": "upsample"}[parts[3]]
            name = ".".join(["decoder.up", str(levels - 1 - int(parts[2])), part, *parts[5:]])
        elif parts[1] == "mid_block" and parts[2] == "resnets":
            name = ".".join([parts[0], "mid", f"block_{int(parts[3]) + 1}", *parts[4:]])
        elif parts[1] == "mid_block":
            layer, kind = ".".join(parts[4:-1]), parts[-1]
            name = f"{parts[0]}.mid.attn_1.{VAE_ATTENTION[layer]}.{kind}"
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # linear layers were 1x1 convolutions
        yield single_file.VAE + name, tensor


def clip_original(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, tensor in tensors.items():
        yield f"{single_file.CLIP}text_model.{key}", tensor
    yield f"{single_file.CLIP}text_model.embeddings.position_ids", torch.arange(77)[None]


OPENCLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
            "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
OPENCLIP_ENDS = {"embeddings.token_embedding.weight": "token_embedding.weight",
                 "embeddings.position_embedding.weight": "positional_embedding",
                 "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}  # fmt: skip


def openclip_original(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.layers."))
    width = tensors["final_layer_norm.weight"].shape[0]
    for key, tensor in tensors.items():
        if key in OPENCLIP_ENDS:
            yield single_file.OPENCLIP + OPENCLIP_ENDS[key], tensor
            continue
        parts = key.split(".")
        stem, kind = ".".join(parts[3:-1]), parts[-1]
        place = f"{single_file.OPENCLIP}transformer.resblocks.{parts[2]}"
        if stem in OPENCLIP:
            yield f"{place}.{OPENCLIP[stem]}.{kind}", tensor
        elif stem == "self_attn.q_proj":
            layer = key.removesuffix(f"q_proj.{kind}")
            joined = torch.cat([tensors[f"{layer}{letter}_proj.{kind}"] for letter in "qkv"])
            yield f"{place}.attn.in_proj_{kind}", joined
    # The published files have the last layer, which Stable Diffusion 2 does not use, and CLIP's own ends.
    last = f"{single_file.OPENCLIP}transformer.resblocks.{layers}"
    for name, shape in {"ln_1.weight": (width,), "attn.in_proj_weight": (3 * width, width)}.items():
        yield f"{last}.{name}", torch.zeros(shape)
    yield f"{single_file.OPENCLIP}text_projection", torch.zeros(width, width)
    yield f"{single_file.OPENCLIP}logit_scale", torch.zeros(())
