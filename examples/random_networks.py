"""Networks with random weights that answer like trained ones: what the random checkpoints are made of.

Untrained networks answer with almost nothing: everything agrees with everything, and no test can fail. The functions
`calibrate_...` rescale layers of a network, in place, until its answers are of a trained network's size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel

from gesso_export.checkpoint.clip_vocabulary import MAX_TOKENS, vocabulary


@dataclass(frozen=True)
class Network:
    """A network of a checkpoint without its weights: the class and what it is made with."""

    model: Any  # a class of diffusers or transformers
    config: Mapping[str, Any]

    def build(self) -> Any:
        """The untrained module, on torch's default device: full-size ones cost nothing under `torch.device("meta")`."""
        if self.library == "transformers":
            return self.model(self.model.config_class(**self.config)).eval()
        return self.model(**self.config).eval()

    @property
    def library(self) -> str:
        library: str = self.model.__module__.partition(".")[0]
        return library


Networks = Mapping[str, Network]  # by name of the component, in the order in which their weights are drawn


def clip_config(hidden: int, layers: int, heads: int, *, projection: int, openclip: bool) -> dict[str, Any]:
    """Of a CLIP text encoder, OpenAI's (CLIP-L at full size) or OpenCLIP's."""
    return {
        "vocab_size": len(vocabulary()[0]),
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "projection_dim": projection,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": "gelu" if openclip else "quick_gelu",
        # As published: the ids of the fairseq vocabulary. They make CLIP pool the token of the highest id, its EOS.
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def vae_config(
    channels: tuple[int, ...], layers: int, groups: int, *, sample_size: int, scaling_factor: float
) -> dict[str, Any]:
    """One level per number of channels: the VAE's factor is 2 ** (levels - 1). sample_size: native, of its latents."""
    levels = len(channels)
    return {
        "sample_size": sample_size * 2 ** (levels - 1),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "scaling_factor": scaling_factor,
    }


def calibrate_unet(unet: UNet2DConditionModel, added_cond_kwargs: Mapping[str, torch.Tensor] | None = None) -> None:
    """Noise predictions of unit deviation."""
    noise = torch.randn(1, unet.config.in_channels, 16, 16)
    timestep, text = torch.tensor([500.0]), torch.randn(1, MAX_TOKENS, unet.config.cross_attention_dim)
    rescale(unet.conv_out, unet(noise, timestep, text, added_cond_kwargs=added_cond_kwargs).sample.std())


def calibrate_vae(vae: AutoencoderKL) -> None:
    """Latents of unit deviation once scaled, and pictures that use the range without clipping much of it."""
    channels, scale, shift = vae.config.latent_channels, vae.config.scaling_factor, vae.config.shift_factor or 0.0
    encoder_out = vae.encoder.conv_out if vae.quant_conv is None else vae.quant_conv
    moments = vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1).latent_dist.parameters  # [1, 2 * channels, h, w]
    rescale(encoder_out, scale * moments[:, :channels].std())
    # A logvar well away from its clamps.
    encoder_out.weight[channels:] *= 0.1
    encoder_out.bias[channels:] = -6.0
    rescale(vae.decoder.conv_out, 2.5 * vae.decode(torch.randn(1, channels, 8, 8) / scale + shift).sample.std())


def rescale(layer: torch.nn.Conv2d | torch.nn.Linear, std: torch.Tensor) -> None:
    """Divide the output of a layer by `std`."""
    layer.weight /= std
    layer.bias /= std


def write_networks(
    out: Path, networks: Networks, calibrate: Mapping[str, Callable[[Any], None]], *, seed: int, half: bool
) -> None:
    """A folder for each network. half: weights stored as float16, the float32 ones rounded."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, network in networks.items():
            model = network.build()
            if name in calibrate:
                calibrate[name](model)
            (model.half() if half else model).save_pretrained(out / name, safe_serialization=True)


def write_scheduler(out: Path, name: str, config: Mapping[str, Any]) -> None:
    _write_json(out / "scheduler" / "scheduler_config.json", {"_class_name": name, **config})


def write_index(out: Path, pipeline: str, networks: Networks, others: Mapping[str, Any]) -> None:
    """model_index.json. others: the components that are not networks, and the pipeline's options."""
    components = {name: [network.library, network.model.__name__] for name, network in networks.items()}
    _write_json(
        out / "model_index.json",
        {
            "_class_name": pipeline,
            "_diffusers_version": diffusers.__version__,
            **dict(sorted({**components, **others}.items())),
        },
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
