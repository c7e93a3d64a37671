"""What a single .safetensors file is, from its header alone: every published model, and what is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file

import original_layout
from gesso_export import cli, families
from gesso_export.checkpoint.checkpoint import Checkpoint, open_checkpoint
from gesso_export.errors import CheckpointError
from gesso_export.published.configs import published as published_as
from gesso_export.published.models import MODELS, PublishedComponent
from gesso_export.single_file import sdxl
from gesso_export.single_file.convert import convert
from gesso_export.single_file.detect import detect
from gesso_export.single_file.header import read_shapes
from gesso_export.single_file.stable_diffusion import CLIP, OPENCLIP
from gesso_export.single_file.unet import UNET
from gesso_export.single_file.vae import VAE
from original_layout import described, made


@pytest.fixture(scope="module")
def root(fresh_bundles: Path) -> Path:
    return fresh_bundles


@pytest.mark.parametrize("name", MODELS)
def test_the_published_models_are_told_from_their_headers(name: str) -> None:
    """Guards detection at full size, where no test could hold the numbers: names and shapes alone."""
    published = MODELS[name].checkpoint
    networks = {part: config for part, config in configs(published).items() if part not in ("safety_checker",)}
    parts = {part: build(published.components[part], config) for part, config in networks.items()}
    tensors = original_layout.original(parts, networks)
    assert MODELS[published_as(tensors, turbo=name == "sdxl-turbo")].counts == MODELS[name].counts
    header = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    layout = detect(
        header,
        prediction_type=published.components["scheduler"].config().get("prediction_type", "epsilon")
        if name.startswith("sd2")
        else None,
        turbo=name == "sdxl-turbo",
    )
    components = dict(published.components)
    for part in layout.parts:
        config = json.loads(json.dumps(part.config))
        components[part.name] = PublishedComponent(part.name, part.library, part.class_name, Path(part.name), config)
        again = build(components[part.name], config)
        assert {key: tensor.shape for key, tensor in again.items()} == {
            key: tensor.shape for key, tensor in parts[part.name].items()
        }
    found = Checkpoint(Path(), "x", None, layout.pipeline, components, layout.options)
    assert described(families.describe(found)) == described(families.describe(published))
    if not name.startswith(("sd1", "sd2")):  # those were published with one of several
        theirs = published.components["scheduler"].config()
        assert {key: value for key, value in layout.scheduler.items() if value} == {
            key: value for key, value in theirs.items() if value
        }


def configs(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Of the components that are networks."""
    names = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
    return {name: checkpoint.components[name].config() for name in names if name in checkpoint.components}


def build(component: Any, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Its tensors, on the meta device."""
    with torch.device("meta"):
        if component.library == "diffusers":
            model = getattr(diffusers, component.class_name).from_config(config)
        else:
            kind = getattr(transformers, component.class_name)
            model = kind(kind.config_class.from_dict(config))
    names = {key: tensor for key, tensor in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    return {key.removeprefix("text_model."): tensor for key, tensor in names.items()}


def test_an_sdxl_file_may_say_how_it_was_trained(root: Path, tmp_path: Path) -> None:
    """Guards v-prediction, with which the wrong schedule paints noise, and what only the user knows: Turbo."""
    _, file = made(root, "sdxl")
    shapes = dict(read_shapes(file))
    plain = {"_class_name": sdxl.SCHEDULER_CLASS, **sdxl.SCHEDULER_CONFIG, "prediction_type": "epsilon"}
    assert detect(shapes).scheduler == plain
    predicts = {**plain, "prediction_type": "v_prediction"}
    assert detect(shapes, "v_prediction").scheduler == predicts
    assert detect({**shapes, sdxl.V_PREDICTION: (0,)}).scheduler == predicts
    zero = {**predicts, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    assert detect({**shapes, sdxl.V_PREDICTION: (0,), sdxl.ZERO_SNR: (0,)}).scheduler == zero
    convert(file, tmp_path, turbo=True)
    turbo = families.describe(open_checkpoint(tmp_path, "x"))
    assert (turbo.size.native, turbo.parameters["guidance_scale"].default) == (512, 0.0)
    with pytest.raises(CheckpointError, match=r"--turbo is for SDXL files; this file is Stable Diffusion 1\.x"):
        detect(read_shapes(made(root, "sd1")[1]), turbo=True)


def test_a_stable_diffusion_2_file_does_not_say_what_it_predicts(root: Path) -> None:
    """Guards against guessing: with the wrong prediction type every picture is noise."""
    openclip = {f"{OPENCLIP}x": (1,), f"{UNET}input_blocks.0.0.weight": (32, 4, 3, 3)}
    with pytest.raises(CheckpointError, match="give --prediction-type"):
        detect({**openclip, f"{VAE}x": (1,)})


def test_a_distilled_unet_is_told_by_its_uneven_blocks(root: Path) -> None:
    """Guards against SSD-1B, which is named like SDXL: the layers that diffusers did not expect would be dropped."""
    shapes = dict(read_shapes(made(root, "sdxl")[1]))
    layer = f"{UNET}output_blocks.0.1.transformer_blocks."
    extra = {key.replace(f"{layer}0.", f"{layer}2."): shapes[key] for key in shapes if key.startswith(f"{layer}0.")}
    with pytest.raises(CheckpointError, match=r"output_blocks.0 has 3 transformer layers, others .* 2: a distilled"):
        detect({**shapes, **extra})


UNET_KEY = f"{UNET}input_blocks.0.0.weight"
FLUX_KEY = "double_blocks.0.img_attn.norm.key_norm.scale"
FLUX_UNET_KEY = f"{UNET}{FLUX_KEY}"
SD3_KEY = "joint_blocks.0.context_block.attn.qkv.weight"
NOT_SERVED: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "sdxl's unet alone": ({UNET_KEY: (320, 4, 3, 3), sdxl.KEY: (1280,)}, "lacks a tensor"),
    "refiner": ({"conditioner.embedders.0.model.ln_final.weight": (1280,)}, "the Stable Diffusion XL refiner"),
    "refiner's unet": ({UNET_KEY: (384, 4, 3, 3)}, "the Stable Diffusion XL refiner"),
    "playground": ({"edm_mean": (4,), UNET_KEY: (320, 4, 3, 3)}, "Playground"),
    "half of flux": ({FLUX_KEY: (128,)}, "lacks a tensor"),
    "flux depth": ({FLUX_KEY: (128,), "img_in.weight": (3072, 128)}, "FLUX.1 Depth or Canny"),
    "another flux": ({FLUX_KEY: (128,), "img_in.weight": (3072, 196)}, "takes 196 channels"),
    "chroma": ({FLUX_KEY: (128,), "distilled_guidance_layer.in_proj.bias": (1,)}, "Chroma"),
    "sd3": ({SD3_KEY: (4, 4)}, "Stable Diffusion 3"),
    "sd3 with encoders": ({UNET + SD3_KEY: (4, 4)}, "Stable Diffusion 3"),
    "scaled fp8": ({FLUX_KEY: (128,), "scaled_fp8": (2,)}, "scaled float8"),
    "scaled fp8 of a layer": ({FLUX_UNET_KEY: (128,), f"{UNET}img_in.scale_weight": ()}, "scaled float8"),
    "nf4": ({FLUX_KEY: (128,), "img_in.weight.absmax": (9,)}, "nf4"),
    "svdquant": ({"transformer_blocks.0.qkv_proj.qweight": (4, 4)}, "GPTQ, AWQ or SVDQuant"),
    "a transformer of diffusers": ({"transformer_blocks.0.attn.to_q.weight": (4, 4)}, "in the diffusers layout"),
    "a unet of diffusers": ({"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)}, "in the diffusers layout"),
    "an embedding": ({"clip_l": (1, 768), "clip_g": (1, 1280)}, "a textual inversion .see --embedding"),
    "lora": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (4, 4)}, "a LoRA"),
    "lora of flux": ({"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (4, 4)}, "a LoRA"),
    "controlnet": ({"control_model.time_embed.0.weight": (4, 4)}, "a ControlNet"),
    "a vae alone": ({"first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3)}, "no Stable Diffusion UNet"),
    "a unet alone": ({UNET_KEY: (32, 4, 3, 3)}, "no VAE; a whole checkpoint is needed"),
    "no text encoder": ({UNET_KEY: (32, 4, 3, 3), f"{VAE}x": (1,)}, "no text encoder"),
    "pix2pix": ({UNET_KEY: (32, 8, 3, 3), f"{VAE}x": (1,), f"{CLIP}x": (1,)}, "8 channels"),
    "half of one": ({UNET_KEY: (32, 4, 3, 3), f"{VAE}x": (1,), f"{CLIP}x": (1,)}, "lacks"),
    "nothing": ({}, "no Stable Diffusion UNet"),
}


@pytest.mark.parametrize("kind", NOT_SERVED)
def test_what_is_not_served_is_told_by_its_name(kind: str) -> None:
    """Guards the message: people have many kinds of .safetensors files, and they all look alike from outside."""
    shapes, message = NOT_SERVED[kind]
    with pytest.raises(CheckpointError, match=message):
        detect(shapes)


def test_pickles_and_broken_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a checkpoint that runs code, and against a half-loaded download."""
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    for name, words in (("model.ckpt", "is a pickle"), ("flux1-dev-Q4_0.gguf", "is a GGUF file"),
                        ("half.safetensors", "cannot be read"), ("gone.safetensors", "cannot be read")):  # fmt: skip
        assert cli.main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


def test_packed_weights_are_told_by_what_they_are_stored_as(tmp_path: Path) -> None:
    """Guards against int8 files whose names look like any other's."""
    file = tmp_path / "packed.safetensors"
    save_file({UNET_KEY: torch.zeros(32, 4, 3, 3, dtype=torch.int8)}, file)
    with pytest.raises(CheckpointError, match="is of I8, quantised"):
        read_shapes(file)
