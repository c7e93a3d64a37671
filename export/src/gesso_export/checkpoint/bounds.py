"""What each number, flag and word of a config may be: one table for each kind of component.

Libraries are given what is in these tables and nothing else of a file, so that no key of it can have them load more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gesso_export.errors import CheckpointError

MOST_LAYERS = 128  # of a network, one after the other
_WORD_LENGTH = 200
_ITEMS = 64


@dataclass(frozen=True)
class Bound:
    """A value of `kind` from `low` to `high`; `null`: or nothing; `many`: or a list (not `single`: a list alone)."""

    kind: type
    low: float = 0
    high: float = 0
    many: bool = False
    null: bool = False
    single: bool = True
    items: int = _ITEMS  # of a list

    @property
    def words(self) -> str:
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a word"
        return f"a {'whole ' if self.kind is int else ''}number from {self.low:g} to {self.high:g}"

    def holds(self, value: object) -> bool:
        if value is None:
            return self.null
        if isinstance(value, list) and self.many:
            one = replace(self, null=False, single=True)
            return 0 < len(value) <= self.items and all(one.holds(item) for item in value)
        if not self.single:
            return False
        if self.kind is str:
            return isinstance(value, str) and len(value) <= _WORD_LENGTH
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        number = (int,) if self.kind is int else (int, float)
        return isinstance(value, number) and self.low <= value <= self.high


Table = Mapping[str, Bound]


def _whole(low: int, high: int) -> Bound:
    return Bound(int, low, high)


def _real(low: float, high: float) -> Bound:
    return Bound(float, low, high)


def _some(bound: Bound) -> Bound:
    return replace(bound, many=True)


def _list(bound: Bound) -> Bound:
    return replace(bound, many=True, single=False)


def _maybe(bound: Bound) -> Bound:
    return replace(bound, null=True)


_FLAG, _WORD = Bound(bool, null=True), Bound(str)
_WIDTH, _LAYERS, _SIDE, _EPSILON = _whole(1, 16384), _whole(1, MOST_LAYERS), _whole(1, 512), _real(1e-12, 0.1)
_ID, _SHIFT, _STEPS = _maybe(_whole(0, 2**20)), _real(-100, 100), _whole(200, 100_000)
_FACTOR, _BETA = _real(1e-3, 1e3), _real(1e-6, 0.9999)

_UNET: Table = {
    "sample_size": _maybe(_some(_SIDE)),
    **dict.fromkeys(("in_channels", "out_channels"), _whole(1, 1024)),
    "block_out_channels": _list(_WIDTH),
    "layers_per_block": _some(_whole(1, 16)),
    "transformer_layers_per_block": _some(_some(_whole(1, 64))),
    "reverse_transformer_layers_per_block": _maybe(_some(_some(_whole(1, 64)))),
    "cross_attention_dim": _some(_WIDTH),
    "attention_head_dim": _some(_WIDTH),
    "num_attention_heads": _maybe(_some(_WIDTH)),
    "norm_num_groups": _maybe(_whole(1, 1024)),
    "norm_eps": _EPSILON,
    "freq_shift": _whole(0, 1),
    "downsample_padding": _whole(0, 1),
    "dropout": _real(0, 1),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), _FACTOR),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), _whole(1, 9)),
    **dict.fromkeys(
        (
            "addition_time_embed_dim",
            "encoder_hid_dim",
            "num_class_embeds",
            "projection_class_embeddings_input_dim",
            "time_cond_proj_dim",
            "time_embedding_dim",
        ),
        _maybe(_WIDTH),
    ),
    "addition_embed_type_num_heads": _WIDTH,
    **dict.fromkeys(("down_block_types", "up_block_types"), _list(_WORD)),
    **dict.fromkeys(("act_fn", "attention_type", "resnet_time_scale_shift", "time_embedding_type"), _WORD),
    **dict.fromkeys(
        (
            "addition_embed_type",
            "class_embed_type",
            "cross_attention_norm",
            "encoder_hid_dim_type",
            "mid_block_type",
            "time_embedding_act_fn",
            "timestep_post_act",
        ),
        _maybe(_WORD),
    ),
    "only_cross_attention": _some(_FLAG),
    **dict.fromkeys(
        (
            "center_input_sample",
            "class_embeddings_concat",
            "dual_cross_attention",
            "flip_sin_to_cos",
            "mid_block_only_cross_attention",
            "resnet_skip_time_act",
            "upcast_attention",
            "use_linear_projection",
        ),
        _FLAG,
    ),
}
_VAE: Table = {
    "sample_size": _some(_whole(1, 16384)),
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels"), _whole(1, 1024)),
    "block_out_channels": _list(_WIDTH),
    "layers_per_block": _whole(1, 16),
    "norm_num_groups": _whole(1, 1024),
    "scaling_factor": _FACTOR,
    "shift_factor": _maybe(_SHIFT),
    **dict.fromkeys(("latents_mean", "latents_std"), _maybe(_list(_SHIFT))),
    "act_fn": _WORD,
    **dict.fromkeys(("down_block_types", "up_block_types"), _list(_WORD)),
    **dict.fromkeys(("force_upcast", "mid_block_add_attention", "use_post_quant_conv", "use_quant_conv"), _FLAG),
}
_FLUX: Table = {
    "patch_size": _whole(1, 16),
    "in_channels": _whole(1, 4096),
    "out_channels": _maybe(_whole(1, 4096)),
    **dict.fromkeys(("num_layers", "num_single_layers"), _LAYERS),
    **dict.fromkeys(
        ("attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim"), _WIDTH
    ),
    "axes_dims_rope": _list(_whole(2, 1024)),
    "guidance_embeds": _FLAG,
}
_CLIP: Table = {
    "vocab_size": _whole(3, 2**20),
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "projection_dim"), _WIDTH),
    "num_hidden_layers": _LAYERS,
    "max_position_embeddings": _whole(3, 4096),
    "layer_norm_eps": _EPSILON,
    "hidden_act": _WORD,
    "model_type": _WORD,
    "use_attention_mask": _FLAG,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _ID),
}
_T5: Table = {
    "vocab_size": _whole(3, 2**20),
    **dict.fromkeys(("d_model", "d_kv", "num_heads"), _WIDTH),
    "d_ff": _whole(1, 65536),
    "num_layers": _LAYERS,
    "relative_attention_num_buckets": _whole(2, 1024),
    "relative_attention_max_distance": _whole(2, 65536),
    "layer_norm_epsilon": _EPSILON,
    "feed_forward_proj": _WORD,
    **dict.fromkeys(("eos_token_id", "pad_token_id"), _ID),
}
_SCHEDULER: Table = {
    "num_train_timesteps": _STEPS,
    **dict.fromkeys(("beta_start", "beta_end"), _BETA),
    "trained_betas": _maybe(replace(_list(_BETA), items=100_000)),
    "steps_offset": _whole(0, 1000),
    **dict.fromkeys(("base_image_seq_len", "max_image_seq_len"), _whole(1, 2**20)),
    **dict.fromkeys(("base_shift", "max_shift"), _real(0, 10)),
    "shift": _real(1e-3, 1e3),
    "shift_terminal": _maybe(_real(0, 0.99)),
    **dict.fromkeys(("flow_shift", "clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"),
                    _maybe(_real(0, 1e6))),
    **dict.fromkeys(("sigma_min", "sigma_max"), _maybe(_real(0, 1e6))),
    "solver_order": _whole(1, 3),
    "timestep_scaling": _real(1e-3, 1e6),
    "original_inference_steps": _whole(1, 100_000),
    **dict.fromkeys(("beta_schedule", "prediction_type", "timestep_spacing"), _WORD),
    **dict.fromkeys(("thresholding", "rescale_betas_zero_snr", "use_karras_sigmas", "use_exponential_sigmas",
                     "use_beta_sigmas", "use_dynamic_shifting", "set_alpha_to_one", "clip_sample", "skip_prk_steps"),
                    _FLAG),
}  # fmt: skip
_TOKENIZER: Table = {
    "model_max_length": _whole(3, 10**40),  # what stands for "no bound" is 10^30
    "extra_ids": _whole(0, 1000),
    **dict.fromkeys(("do_lower_case", "add_prefix_space", "legacy"), _FLAG),
}

_TABLES: Mapping[str, Table] = {
    "UNet2DConditionModel": _UNET,
    "AutoencoderKL": _VAE,
    "FluxTransformer2DModel": _FLUX,
    "CLIPTextModel": _CLIP,
    "CLIPTextModelWithProjection": _CLIP,
    "T5EncoderModel": _T5,
}
NETWORKS = tuple(_TABLES)


def table(class_name: str) -> Table:
    """The table of a class; empty for one that is not served."""
    if class_name.endswith("Scheduler"):
        return _SCHEDULER
    if class_name.endswith(("Tokenizer", "TokenizerFast")):
        return _TOKENIZER
    return _TABLES.get(class_name, {})


def check(config: Mapping[str, Any], class_name: str, where: str) -> None:
    """Raises CheckpointError naming the first key whose value is out of its bounds; where: the file."""
    for key, bound in table(class_name).items():
        if key in config and not bound.holds(config[key]):
            many = (", or a list of such" if bound.single else ", in a list") if bound.many else ""
            raise CheckpointError(f"{where}: {key} is {short(config[key])}; it must be {bound.words}{many}")


def known(config: Mapping[str, Any], class_name: str) -> dict[str, Any]:
    """The keys that are in the table of the class."""
    return {key: value for key, value in config.items() if key in table(class_name)}


def short(value: object) -> str:
    """A value of somebody else's, to be named in a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
