"""Diffusers checkpoints under their names in the original layouts: the published layouts, by hand, for tests.

Tensors may be of the meta device, where only shapes are wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import bundles
from gesso_export import families

Tensors = dict[str, torch.Tensor]
Named = Iterator[tuple[str, torch.Tensor]]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
SDXL_CLIP, SDXL_OPENCLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
FLUX_VAE, FLUX_CLIP, FLUX_T5 = "vae.", "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."


# What the original layouts take for granted and no header says: 32 groups, heads of 64 channels (or 8 of them), and how
# FLUX divides a head among its axes.
SIZES: dict[str, Any] = {"vae_groups": 32, "vae_channels": [32, 32, 64, 64], "text_hidden": 64, "text_heads": 1}
SD: dict[str, Any] = {**SIZES, "unet_groups": 32, "sample_size": 64}
SDXL: dict[str, Any] = {**SIZES, "preset": "sdxl-tiny", "unet_groups": 32, "unet_channels": [32, 64, 128],
                        "unet_heads": [1, 1, 2], "text_2_hidden": 128, "text_2_heads": 2,
                        "sample_size": 128}  # fmt: skip
FLUX: dict[str, Any] = {**SIZES, "preset": "flux-tiny", "rope_axes": [4, 14, 14], "sample_size": 128}
KINDS: dict[str, dict[str, Any]] = {
    "sd1": {**SD, "in_channels": 4, "unet_channels": [32, 64, 64], "unet_heads": 8, "unet_layers": 2},
    "sd1-inpainting": {**SD, "unet_channels": [32, 64], "unet_heads": 8, "half": True},
    "sd2": {**SD, "in_channels": 4, "openclip": True, "unet_channels": [64, 128], "unet_heads": [1, 2],
            "prediction_type": "v_prediction", "sample_size": 96},
    "sdxl": {**SDXL, "in_channels": 4, "unet_layers": 2, "half": True},
    "sdxl-inpainting": SDXL,
    "flux-dev": {**FLUX, "variant": "dev"},
    "flux-schnell": {**FLUX, "variant": "schnell", "double_layers": 2},
    "flux-fill": {**FLUX, "variant": "fill", "half": True},
}  # fmt: skip


def made(root: Path, kind: str) -> tuple[Path, Path]:
    """A tiny checkpoint of this kind: (its directory, the same as a single file)"""
    folder = bundles.checkpoint(root, **KINDS[kind])
    file = root / f"{kind}.safetensors"
    if not file.exists():
        save_file(original(*networks(folder)), file)
    return folder, file


def described(model: families.Model) -> dict[str, Any]:
    """What a checkpoint amounts to, but for its files."""
    return {
        "networks": [(network.name, network.inputs, network.outputs) for network in model.networks],
        **{name: getattr(model, name) for name in ("family", "vae", "size", "parameters", "task_defaults", "options")},
    }


def stored(folder: Path) -> Tensors:
    """A component's tensors, a CLIP's without the prefix that some versions of transformers give them."""
    (file,) = folder.glob("*.safetensors")
    return {key.removeprefix("text_model."): tensor for key, tensor in load_file(file).items()}


def networks(folder: Path) -> tuple[dict[str, Tensors], dict[str, dict[str, Any]]]:
    """(tensors, config) of each component that has weights."""
    names = sorted(path.parent.name for path in folder.glob("*/config.json"))
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in names}
    return {name: stored(folder / name) for name in names}, configs


def original(parts: Mapping[str, Tensors], configs: Mapping[str, Mapping[str, Any]]) -> Tensors:
    """A whole checkpoint in one file, as its family has it: FLUX.1's as ComfyUI saves them."""
    vae, text = (parts["vae"], configs["vae"]), parts["text_encoder"]
    if "transformer" in parts:
        tensors = {UNET + key: value for key, value in flux(parts["transformer"], configs["transformer"])}
        tensors |= dict(autoencoder(*vae, FLUX_VAE)) | dict(clip(text, FLUX_CLIP))
        tensors |= {FLUX_T5 + key: value for key, value in parts["text_encoder_2"].items()}
        tensors[f"{FLUX_CLIP}text_projection.weight"] = torch.zeros(2, 2)
    elif "text_encoder_2" in parts:
        tensors = dict(unet(parts["unet"], configs["unet"])) | dict(autoencoder(*vae, VAE))
        tensors |= dict(clip(text, SDXL_CLIP)) | dict(openclip(parts["text_encoder_2"], SDXL_OPENCLIP))
    else:
        tensors = dict(unet(parts["unet"], configs["unet"])) | dict(autoencoder(*vae, VAE))
        second = configs["text_encoder"]["hidden_act"] == "gelu"
        tensors |= dict(openclip(text, OPENCLIP, last=True) if second else clip(text, CLIP))
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip


def unet(tensors: Tensors, config: Mapping[str, Any]) -> Named:
    per_level = config["layers_per_block"] + 1
    attended = {key.split(".attentions.")[0] for key in tensors if ".attentions." in key}
    for key, tensor in tensors.items():
        parts = key.split(".")
        stem, kind = ".".join(parts[:-1]), parts[-1]
        if stem in UNET_ENDS:
            yield f"{UNET}{UNET_ENDS[stem]}.{kind}", tensor
            continue
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
        yield ".".join([UNET + place, *rest]), tensor


VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def autoencoder(tensors: Tensors, config: Mapping[str, Any], prefix: str) -> Named:
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
        yield prefix + name, tensor


def clip(tensors: Tensors, prefix: str) -> Named:
    for key, tensor in tensors.items():
        yield f"{prefix}text_model.{key}", tensor
    yield f"{prefix}text_model.embeddings.position_ids", torch.arange(77)[None]


OPENCLIP_LAYERS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                   "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
OPENCLIP_ENDS = {"embeddings.token_embedding.weight": "token_embedding.weight",
                 "embeddings.position_embedding.weight": "positional_embedding",
                 "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}  # fmt: skip


def openclip(tensors: Tensors, prefix: str, *, last: bool = False) -> Named:
    """last: with a last layer and a projection that the checkpoint has not, as Stable Diffusion 2's files have."""
    layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("encoder.layers."))
    width = tensors["final_layer_norm.weight"].shape[0]
    for key, tensor in tensors.items():
        if key in OPENCLIP_ENDS:
            yield prefix + OPENCLIP_ENDS[key], tensor
            continue
        if key == "text_projection.weight":
            yield f"{prefix}text_projection", tensor.T
            continue
        parts = key.split(".")
        stem, kind = ".".join(parts[3:-1]), parts[-1]
        place = f"{prefix}transformer.resblocks.{parts[2]}"
        if stem in OPENCLIP_LAYERS:
            yield f"{place}.{OPENCLIP_LAYERS[stem]}.{kind}", tensor
        elif stem == "self_attn.q_proj":
            layer = key.removesuffix(f"q_proj.{kind}")
            joined = torch.cat([tensors[f"{layer}{letter}_proj.{kind}"] for letter in "qkv"])
            yield f"{place}.attn.in_proj_{kind}", joined
    if last:
        place = f"{prefix}transformer.resblocks.{layers}"
        for name, shape in {"ln_1.weight": (width,), "attn.in_proj_weight": (3 * width, width)}.items():
            yield f"{place}.{name}", torch.zeros(shape)
        yield f"{prefix}text_projection", torch.zeros(width, width)
    yield f"{prefix}logit_scale", torch.zeros(())


FLUX_ENDS = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
             "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
             "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
             "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
             "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
             "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
             "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2"}  # fmt: skip
FLUX_DOUBLE = {"img_attn.qkv": "attn.to_q attn.to_k attn.to_v", "img_attn.proj": "attn.to_out.0",
               "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj", "txt_attn.proj": "attn.to_add_out",
               "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
               "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
               "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2"}  # fmt: skip
FLUX_DOUBLE_NORMS = {"img_attn.norm.query_norm": "attn.norm_q", "img_attn.norm.key_norm": "attn.norm_k",
                     "txt_attn.norm.query_norm": "attn.norm_added_q",
                     "txt_attn.norm.key_norm": "attn.norm_added_k"}  # fmt: skip
FLUX_SINGLE = {"linear1": "attn.to_q attn.to_k attn.to_v proj_mlp", "linear2": "proj_out",
               "modulation.lin": "norm.linear"}  # fmt: skip
FLUX_SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}


def flux(tensors: Tensors, config: Mapping[str, Any]) -> Named:
    """Of the transformer alone, without a prefix."""
    layers = [("", "", FLUX_ENDS, {})]
    for i in range(config["num_layers"]):
        layers.append((f"double_blocks.{i}.", f"transformer_blocks.{i}.", FLUX_DOUBLE, FLUX_DOUBLE_NORMS))
    for i in range(config["num_single_layers"]):
        layers.append((f"single_blocks.{i}.", f"single_transformer_blocks.{i}.", FLUX_SINGLE, FLUX_SINGLE_NORMS))
    for old, new, linears, norms in layers:
        for name, joined in linears.items():
            for kind in ("weight", "bias"):
                rows = [tensors[key] for part in joined.split() if (key := f"{new}{part}.{kind}") in tensors]
                if rows:  # schnell has no guidance
                    yield f"{old}{name}.{kind}", torch.cat(rows)
        for name, part in norms.items():
            yield f"{old}{name}.scale", tensors[f"{new}{part}.weight"]
    for kind in ("weight", "bias"):
        scale, shift = tensors[f"norm_out.linear.{kind}"].chunk(2)
        yield f"final_layer.adaLN_modulation.1.{kind}", torch.cat([shift, scale])
