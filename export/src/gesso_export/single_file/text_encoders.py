"""The text encoders of single files: CLIP as transformers names it, CLIP as OpenCLIP names it, and T5's encoder."""

from __future__ import annotations

from typing import Any

from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Part, Shapes, Tensors, count

_HEAD = 64  # channels of one attention head, in CLIP's text encoders of every size


def clip(shapes: Shapes, prefix: str) -> Part:
    config = _clip_config(
        "CLIPTextModel",
        shapes["text_model.embeddings.token_embedding.weight"],
        layers=count(shapes, "text_model.encoder.layers."),
        positions=shapes["text_model.embeddings.position_embedding.weight"][0],
        intermediate=shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        act="quick_gelu",
    )

    def convert(tensors: Tensors) -> Tensors:
        return {
            key: tensor
            for key, tensor in tensors.items()
            if key.startswith("text_model.") and not key.endswith("position_ids")
        }

    return Part("text_encoder", "transformers", "CLIPTextModel", prefix, config, convert)


def openclip(shapes: Shapes, prefix: str) -> Part:
    """All layers but the last: Stable Diffusion 2 was trained on what the last but one says."""
    return _openclip(shapes, prefix, "text_encoder", "CLIPTextModel", left_out=1)


def openclip_with_projection(shapes: Shapes, prefix: str) -> Part:
    """SDXL's second text encoder, whole: the projection is of the last layer."""
    return _openclip(shapes, prefix, "text_encoder_2", "CLIPTextModelWithProjection", left_out=0)


def _openclip(shapes: Shapes, prefix: str, name: str, class_name: str, left_out: int) -> Part:
    layers = count(shapes, "transformer.resblocks.") - left_out
    config = _clip_config(
        class_name,
        shapes["token_embedding.weight"],
        layers=layers,
        positions=shapes["positional_embedding"][0],
        intermediate=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        act="gelu",
    )
    ignored = [f"transformer.resblocks.{layers}."]
    if class_name == "CLIPTextModel":
        ignored.append("text_projection")
    else:
        config["projection_dim"] = shapes["text_projection"][1]

    def convert(tensors: Tensors) -> Tensors:
        from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
        from transformers import CLIPTextConfig

        class ConfigOnly:  # all that the conversion reads of a model
            config = CLIPTextConfig(hidden_size=shapes["token_embedding.weight"][1])

        used = {key: tensor for key, tensor in tensors.items() if not key.startswith(tuple(ignored))}
        converted: Tensors = convert_open_clip_checkpoint(ConfigOnly, used, prefix="")
        return converted

    return Part(name, "transformers", class_name, prefix, config, convert)


def _clip_config(
    class_name: str, token_table: tuple[int, ...], *, layers: int, positions: int, intermediate: int, act: str
) -> dict[str, Any]:
    vocabulary, hidden = token_table
    return {
        "architectures": [class_name],
        "model_type": "clip_text_model",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // _HEAD),
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "hidden_act": act,
        "projection_dim": hidden,
        # As published: the ids of another vocabulary, by which transformers knows to pool the token of the highest id.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


_TABLE, _TABLE_AGAIN = "shared.weight", "encoder.embed_tokens.weight"
_BLOCK = "encoder.block.0.layer."


def t5(shapes: Shapes, prefix: str) -> Part:
    """T5's encoder, version 1.1 (gated). Its names are transformers' own."""
    if f"{_BLOCK}1.DenseReluDense.wi_0.weight" not in shapes:
        raise CheckpointError("the T5 encoder is not gated: not that of T5 1.1, which FLUX.1 was trained with")
    vocabulary, hidden = shapes.get(_TABLE) or shapes[_TABLE_AGAIN]
    buckets, heads = shapes[f"{_BLOCK}0.SelfAttention.relative_attention_bias.weight"]
    layers = count(shapes, "encoder.block.")
    config = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_ff": shapes[f"{_BLOCK}1.DenseReluDense.wi_0.weight"][0],
        "d_kv": shapes[f"{_BLOCK}0.SelfAttention.q.weight"][0] // heads,
        "d_model": hidden,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "num_layers": layers,
        "pad_token_id": 0,
        "relative_attention_num_buckets": buckets,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary,
    }

    def convert(tensors: Tensors) -> Tensors:
        used = {key: tensor for key, tensor in tensors.items() if key.startswith(("encoder.", _TABLE))}
        again = used.pop(_TABLE_AGAIN, None)
        return used if again is None else {_TABLE: again, **used}

    return Part("text_encoder_2", "transformers", "T5EncoderModel", prefix, config, convert)
