"""The text encoders of single files: CLIP as transformers names it, CLIP as OpenCLIP names it, and T5's encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gesso_export.errors import CheckpointError
from gesso_export.single_file.layout import Part, Shapes, Tensors, count

_RESBLOCKS = "transformer.resblocks."
# OpenCLIP's own, and as a layer, which is how diffusers' script for SDXL writes it: turned.
_PROJECTIONS = ("text_projection", "text_projection.weight")
# Layers of the published text encoders, by their width.
_CLIP_LAYERS = {768: 12}
_OPENCLIP_LAYERS = {1024: 24, 1280: 32}
_HEAD = 64  # channels of one attention head, in CLIP's text encoders of every size


def clip(shapes: Shapes, prefix: str) -> Part:
    """OpenAI's, in transformers' names; some tools write them without their first part."""
    shapes = {_named(key): shape for key, shape in shapes.items()}
    layers = count(shapes, "text_model.encoder.layers.")
    token_table = shapes["text_model.embeddings.token_embedding.weight"]
    _check_layers(layers, token_table[1], _CLIP_LAYERS)
    config = _clip_config(
        "CLIPTextModel",
        token_table,
        layers=layers,
        positions=shapes["text_model.embeddings.position_embedding.weight"][0],
        intermediate=shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        act="quick_gelu",
    )

    def convert(tensors: Tensors) -> Tensors:
        named = {_named(key): tensor for key, tensor in tensors.items()}
        return {
            key: tensor
            for key, tensor in named.items()
            if key.startswith("text_model.") and not key.endswith("position_ids")
        }

    return Part("text_encoder", "transformers", "CLIPTextModel", prefix, config, convert)


def _named(key: str) -> str:
    return f"text_model.{key}" if key.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else key


def openclip(shapes: Shapes, prefix: str) -> Part:
    """The layers that are used: Stable Diffusion 2 was trained on what the last but one of OpenCLIP's says.

    A file has all of them, and then the projection that follows the last; or, as diffusers' script and kohya's write
    it, those that are used and no projection. For the published width their number says it.
    """
    layers, width = count(shapes, _RESBLOCKS), shapes["token_embedding.weight"][1]
    if width in _OPENCLIP_LAYERS:
        whole = _OPENCLIP_LAYERS[width]
        if layers not in (whole, whole - 1):
            raise CheckpointError(
                f"the text encoder has {layers} layers of {width} channels; all are {whole}, those used {whole - 1}"
            )
        return _openclip(shapes, prefix, "text_encoder", "CLIPTextModel", whole - 1)
    left_out = any(key in shapes for key in _PROJECTIONS)
    return _openclip(shapes, prefix, "text_encoder", "CLIPTextModel", layers - left_out)


def openclip_with_projection(shapes: Shapes, prefix: str) -> Part:
    """SDXL's second text encoder, whole: the projection is of the last layer."""
    layers = count(shapes, _RESBLOCKS)
    _check_layers(layers, shapes["token_embedding.weight"][1], _OPENCLIP_LAYERS)
    return _openclip(shapes, prefix, "text_encoder_2", "CLIPTextModelWithProjection", layers)


def _check_layers(layers: int, width: int, published: Mapping[int, int]) -> None:
    """Raises CheckpointError when a text encoder that is read by its last layers has lost some."""
    whole = published.get(width, layers)
    if layers != whole:
        raise CheckpointError(f"the text encoder has {layers} layers of {width} channels; as published it has {whole}")


def _openclip(shapes: Shapes, prefix: str, name: str, class_name: str, layers: int) -> Part:
    config = _clip_config(
        class_name,
        shapes["token_embedding.weight"],
        layers=layers,
        positions=shapes["positional_embedding"][0],
        intermediate=shapes[f"{_RESBLOCKS}0.mlp.c_fc.weight"][0],
        act="gelu",
    )
    if projected := class_name != "CLIPTextModel":
        config["projection_dim"] = _projection(shapes)

    def convert(tensors: Tensors) -> Tensors:
        from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
        from transformers import CLIPTextConfig

        class ConfigOnly:  # all that the conversion reads of a model
            config = CLIPTextConfig(hidden_size=shapes["token_embedding.weight"][1])

        used = {
            key: tensor
            for key, tensor in tensors.items()
            if key not in _PROJECTIONS and (not key.startswith(_RESBLOCKS) or int(key.split(".")[2]) < layers)
        }
        converted: Tensors = convert_open_clip_checkpoint(ConfigOnly, used, prefix="")
        if not projected:
            return converted
        plain, linear = (tensors.get(key) for key in _PROJECTIONS)
        return {**converted, "text_projection.weight": linear if plain is None else plain.T}

    return Part(name, "transformers", class_name, prefix, config, convert)


def _projection(shapes: Shapes) -> int:
    """Channels of the summary of a text: the columns of OpenCLIP's matrix, or the rows of transformers' layer."""
    plain, linear = _PROJECTIONS
    return shapes[plain][1] if plain in shapes else shapes[linear][0]


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
