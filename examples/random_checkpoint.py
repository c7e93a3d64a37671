"""Write a Stable Diffusion checkpoint with random weights, in the diffusers format, with no download.

    python examples/random_checkpoint.py checkpoints/tiny
    python examples/random_checkpoint.py checkpoints/sd15 --preset sd15 --in-channels 4 --half

The architecture, the file layout and the CLIP vocabulary are the real ones, so everything that reads a real checkpoint
reads this one: the tests, the demo and the benchmarks are built on it. What it paints is noise, of course.
The vocabulary is OpenAI's, which comes with gesso-export.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from gesso_export.clip_vocabulary import EOS, MAX_TOKENS, vocabulary, write_tokenizer
from gesso_export.single_file import SCHEDULER_CONFIG

SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class Architecture:
    """Sizes of the three networks; a preset names one, and every field can be replaced."""

    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_heads: int | tuple[int, ...]  # what diffusers calls attention_head_dim and uses as the number of heads
    unet_groups: int
    sample_size: int  # native latent size
    vae_channels: tuple[int, ...]  # one level each: the VAE's factor is 2 ** (levels - 1)
    vae_layers: int
    vae_groups: int
    text_hidden: int
    text_layers: int
    text_heads: int
    openclip: bool = False  # Stable Diffusion 2's text encoder: gelu, padded with "!"; and linear projections


PRESETS: Mapping[str, Architecture] = {
    "tiny": Architecture((32, 64), 1, 4, 16, 32, (16, 16, 32, 32), 1, 8, 32, 2, 4),
    "small": Architecture((64, 128, 128), 1, 4, 32, 32, (32, 32, 64, 64), 1, 16, 64, 4, 4),
    "sd15": Architecture((320, 640, 1280, 1280), 2, 8, 32, 64, (128, 256, 512, 512), 2, 32, 768, 12, 12),
    "sd21": Architecture((320, 640, 1280, 1280), 2, (5, 10, 20, 20), 32, 96, (128, 256, 512, 512), 2, 32, 1024, 23, 16,
                         openclip=True),
}  # fmt: skip


def make_checkpoint(
    out: str | Path,
    *,
    preset: str = "tiny",
    seed: int = 0,
    in_channels: int = 9,
    prediction_type: str = "epsilon",
    half: bool = False,
    scheduler: str = "PNDMScheduler",
    scheduler_config: Mapping[str, Any] | None = None,
    **architecture: Any,
) -> Path:
    """Write a checkpoint to the directory `out` and return it.

    in_channels: 9 (inpainting) or 4 (plain). half: weights stored as float16, the float32 ones rounded.
    scheduler, scheduler_config: class name and extra keys of scheduler_config.json. architecture: fields of
    `Architecture` to replace in the preset. The weights are a function of the seed and the architecture alone.
    """
    arch = replace(PRESETS[preset], **architecture)
    out = Path(out)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        _save(_text_encoder(arch), out / "text_encoder", half)
        _save(_unet(arch, in_channels), out / "unet", half)
        _save(_vae(arch), out / "vae", half)
    write_tokenizer(out / "tokenizer", "!" if arch.openclip else EOS)
    _write_json(
        out / "scheduler" / "scheduler_config.json",
        {
            "_class_name": scheduler,
            **SCHEDULER_CONFIG,
            "prediction_type": prediction_type,
            **(scheduler_config or {}),
        },
    )
    _write_json(
        out / "model_index.json",
        {
            "_class_name": "StableDiffusionInpaintPipeline" if in_channels == 9 else "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", scheduler],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return out


def _text_encoder(arch: Architecture) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary()[0]),
            hidden_size=arch.text_hidden,
            intermediate_size=4 * arch.text_hidden,
            projection_dim=512 if arch.openclip else arch.text_hidden,
            num_hidden_layers=arch.text_layers,
            num_attention_heads=arch.text_heads,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu" if arch.openclip else "quick_gelu",
            # As published: the ids of the fairseq vocabulary, which no part of the pipeline reads.
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    ).eval()


def _unet(arch: Architecture, in_channels: int) -> UNet2DConditionModel:
    levels = len(arch.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=arch.sample_size,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        block_out_channels=arch.unet_channels,
        layers_per_block=arch.unet_layers,
        norm_num_groups=arch.unet_groups,
        cross_attention_dim=arch.text_hidden,
        attention_head_dim=arch.unet_heads,
        use_linear_projection=arch.openclip,
    ).eval()
    noise = torch.randn(1, in_channels, 16, 16)
    timestep, text = torch.tensor([500.0]), torch.randn(1, MAX_TOKENS, arch.text_hidden)
    _rescale(unet.conv_out, unet(noise, timestep, text).sample.std())
    return unet


def _vae(arch: Architecture) -> AutoencoderKL:
    levels = len(arch.vae_channels)
    vae = AutoencoderKL(
        sample_size=arch.sample_size * 2 ** (levels - 1),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=arch.vae_channels,
        layers_per_block=arch.vae_layers,
        norm_num_groups=arch.vae_groups,
        scaling_factor=SCALING_FACTOR,
    ).eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    moments = vae.encode(image).latent_dist.parameters
    # Means that are of unit variance once scaled, as a trained VAE's are, and a logvar well away from its clamps.
    _rescale(vae.quant_conv, SCALING_FACTOR * moments[:, :4].std())
    vae.quant_conv.weight[4:] *= 0.1
    vae.quant_conv.bias[4:] = -6.0
    # A picture that uses the range without clipping much of it.
    _rescale(vae.decoder.conv_out, 2.5 * vae.decode(torch.randn(1, 4, 8, 8) / SCALING_FACTOR).sample.std())
    return vae


def _rescale(layer: torch.nn.Conv2d, std: torch.Tensor) -> None:
    """Divide the output of a network's last layer by `std`; untrained networks answer with almost nothing."""
    layer.weight /= std
    layer.bias /= std


def _save(model: CLIPTextModel | UNet2DConditionModel | AutoencoderKL, folder: Path, half: bool) -> None:
    (model.half() if half else model).save_pretrained(folder, safe_serialization=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a Stable Diffusion checkpoint with random weights.")
    parser.add_argument("out", metavar="OUT", help="directory to write")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    parser.add_argument("--in-channels", type=int, choices=(4, 9), default=9, help="9: inpainting; 4: plain")
    parser.add_argument("--prediction-type", choices=("epsilon", "v_prediction"), default="epsilon")
    parser.add_argument("--openclip", action="store_true", help="Stable Diffusion 2's kind of text encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    args = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    architecture: dict[str, Any] = {"openclip": True} if args.openclip else {}
    make_checkpoint(
        args.out,
        preset=args.preset,
        seed=args.seed,
        in_channels=args.in_channels,
        prediction_type=args.prediction_type,
        half=args.half,
        **architecture,
    )
    size = sum(file.stat().st_size for file in Path(args.out).rglob("*.safetensors"))
    print(f"{args.out}: {size / 1e6:.0f} MB of random weights ({args.preset}, {args.in_channels} channels)")


if __name__ == "__main__":
    main()
