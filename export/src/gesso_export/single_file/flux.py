"""FLUX.1 dev, schnell and Fill in the layout of Black Forest Labs: the transformer alone, or as ComfyUI saves them all.

The keys are mapped here: diffusers' own conversion has the width of the full-size model written in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from gesso_export.checkpoint.clip_vocabulary import EOS
from gesso_export.errors import CheckpointError
from gesso_export.families.flux import PIPELINES
from gesso_export.single_file.layout import Asked, Layout, Part, Shapes, Tensors, count, under
from gesso_export.single_file.text_encoders import clip, t5
from gesso_export.single_file.unet import UNET
from gesso_export.single_file.vae import vae

VAE, CLIP, T5 = "vae.", "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."
KEY = "double_blocks.0.img_attn.norm.key_norm.scale"  # [channels of a head], after the prefix
_FILL = 384  # channels: packed latents, the masked picture's, and every pixel of the mask
_PLAIN = 64
_CONTROL = 128  # those of Depth and Canny

VAE_CONFIG: dict[str, Any] = {
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "sample_size": 1024,
    "force_upcast": True,
}
SCHEDULER_CLASS = "FlowMatchEulerDiscreteScheduler"


def scheduler_config(guided: bool) -> dict[str, Any]:
    """As published: for dev and Fill, or for schnell, which has no guidance."""
    return {
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": 3.0 if guided else 1.0,
        "use_dynamic_shifting": guided,
    }


def prefix(shapes: Shapes) -> str | None:
    """What the names of the transformer's tensors begin with; None when there is none."""
    return next((start for start in (UNET, "") if start + KEY in shapes), None)


def detect(shapes: Shapes, asked: Asked) -> Layout:
    start = prefix(shapes)
    assert start is not None, "asked only of FLUX's files"
    transformer = _transformer(under(shapes, start, "transformer"), start)
    found: list[Part] = [transformer]
    missing: list[str] = []
    others: tuple[tuple[str, str, Callable[[Shapes, str], Part]], ...] = (
        ("vae", VAE, _vae),
        ("text_encoder", CLIP, clip),
        ("text_encoder_2", T5, t5),
    )
    for name, own, read in others:
        if name == "vae" and asked.vae:
            continue
        if any(key.startswith(own) for key in shapes):
            found.append(read(under(shapes, own, name), own))
        else:
            missing.append(name)
    tokenizers = {} if "text_encoder" in missing else {"tokenizer": EOS}
    missing += ["tokenizer_2"] if tokenizers else ["tokenizer", "tokenizer_2"]
    guided = transformer.config["guidance_embeds"]
    fill = transformer.config["in_channels"] == _FILL
    return Layout(
        what="FLUX.1 " + ("Fill" if fill else "dev" if guided else "schnell"),
        pipeline="FluxFillPipeline" if fill else "FluxPipeline",
        parts=tuple(found),
        tokenizers=tokenizers,
        scheduler={"_class_name": SCHEDULER_CLASS, **scheduler_config(guided)},
        missing=tuple(missing),
        bases=PIPELINES,
        vae_config=VAE_CONFIG,
    )


def _transformer(shapes: Shapes, start: str) -> Part:
    width, channels = shapes["img_in.weight"]
    if channels == _CONTROL:
        raise CheckpointError("this file is FLUX.1 Depth or Canny, which is not supported")
    if channels not in (_PLAIN, _FILL):
        raise CheckpointError(f"the FLUX transformer takes {channels} channels; supported are {_PLAIN} and {_FILL}")
    (head,) = shapes[KEY]
    config = {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0],
        "num_layers": count(shapes, "double_blocks."),
        "num_single_layers": count(shapes, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        # As published for heads of 128 channels: an eighth of them for a third axis, the rows and columns share.
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
    }

    def convert(tensors: Tensors) -> Tensors:
        return dict(renamed(tensors, width))

    return Part("transformer", "diffusers", "FluxTransformer2DModel", start, config, convert)


def _vae(shapes: Shapes, start: str) -> Part:
    return vae(shapes, start, **VAE_CONFIG)


# Layers by their names in the file; several new ones divide the rows among them.
_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    **{
        f"{old}.{end}_layer": f"time_text_embed.{new}_embedder.linear_{number}"
        for old, new in {"time_in": "timestep", "vector_in": "text", "guidance_in": "guidance"}.items()
        for end, number in {"in": 1, "out": 2}.items()
    },
}
_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
    "modulation.lin": ("norm.linear",),
}


def renamed(tensors: Tensors, width: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The transformer's tensors as diffusers names them; width: channels of a token."""
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        match layer.split(".", 2):
            case ["double_blocks", number, rest]:
                names = [f"transformer_blocks.{number}.{name}" for name in _DOUBLE.get(rest, ())]
            case ["single_blocks", number, rest]:
                names = [f"single_transformer_blocks.{number}.{name}" for name in _SINGLE.get(rest, ())]
            case _:
                names = [_ENDS[layer]] if layer in _ENDS else []
        if layer == "final_layer.adaLN_modulation.1":
            tensor = torch.cat(tensor.chunk(2)[::-1])  # the shift came first
        sizes = [width] * (len(names) - 1)
        rows = tensor.split([*sizes, len(tensor) - sum(sizes)]) if names else ()
        for name, part in zip(names, rows, strict=True):
            yield f"{name}.{'weight' if kind == 'scale' else kind}", part
