"""Write a checkpoint with random weights, in the diffusers format, with no download.

    python examples/random_checkpoint.py checkpoints/tiny
    python examples/random_checkpoint.py checkpoints/sd15 --preset sd15 --in-channels 4 --half
    python examples/random_checkpoint.py checkpoints/sdxl-tiny --preset sdxl-tiny --turbo
    python examples/random_checkpoint.py checkpoints/flux-tiny --preset flux-tiny --variant fill

The architecture, the file layout and the CLIP vocabulary are the real ones, so everything that reads a real checkpoint
reads this one: the tests, the demo and the benchmarks are built on it. What it paints is noise, of course.
The vocabulary is OpenAI's, which comes with gesso-export. Stable Diffusion 1 and 2 are made here, the other families in
random_sdxl.py and random_flux.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import random_flux
import random_sdxl
from gesso_export.checkpoint.clip_vocabulary import EOS, write_tokenizer
from gesso_export.single_file.stable_diffusion import SCHEDULER_CONFIG
from random_networks import (
    Network,
    calibrate_unet,
    calibrate_vae,
    clip_config,
    vae_config,
    write_index,
    write_networks,
    write_scheduler,
)

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
    """Write a Stable Diffusion checkpoint to the directory `out` and return it.

    in_channels: 9 (inpainting) or 4 (plain). half: weights stored as float16, the float32 ones rounded.
    scheduler, scheduler_config: class name and extra keys of scheduler_config.json. architecture: fields of
    `Architecture` to replace in the preset. The weights are a function of the seed and the architecture alone.
    """
    out = Path(out)
    parts = networks(preset, in_channels=in_channels, **architecture)
    write_networks(out, parts, {"unet": calibrate_unet, "vae": calibrate_vae}, seed=seed, half=half)
    write_tokenizer(out / "tokenizer", "!" if replace(PRESETS[preset], **architecture).openclip else EOS)
    config = {**SCHEDULER_CONFIG, "prediction_type": prediction_type, **(scheduler_config or {})}
    write_scheduler(out, scheduler, config)
    others = {
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    write_index(out, "StableDiffusionInpaintPipeline" if in_channels == 9 else "StableDiffusionPipeline", parts, others)
    return out


def networks(preset: str, *, in_channels: int = 9, **architecture: Any) -> dict[str, Network]:
    """The three networks without their weights; the arguments are those of `make_checkpoint`."""
    arch = replace(PRESETS[preset], **architecture)
    text = clip_config(
        arch.text_hidden,
        arch.text_layers,
        arch.text_heads,
        projection=512 if arch.openclip else arch.text_hidden,
        openclip=arch.openclip,
    )
    levels = len(arch.unet_channels)
    unet = {
        "sample_size": arch.sample_size,
        "in_channels": in_channels,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        "block_out_channels": arch.unet_channels,
        "layers_per_block": arch.unet_layers,
        "norm_num_groups": arch.unet_groups,
        "cross_attention_dim": arch.text_hidden,
        "attention_head_dim": arch.unet_heads,
        "use_linear_projection": arch.openclip,
    }
    vae = vae_config(
        arch.vae_channels,
        arch.vae_layers,
        arch.vae_groups,
        sample_size=arch.sample_size,
        scaling_factor=SCALING_FACTOR,
    )
    return {
        "text_encoder": Network(CLIPTextModel, text),
        "unet": Network(UNet2DConditionModel, unet),
        "vae": Network(AutoencoderKL, vae),
    }


# What makes each preset, and the options that the command line has for it besides its seed and precision.
MAKERS: Mapping[str, Callable[..., Path]] = {
    **dict.fromkeys(PRESETS, make_checkpoint),
    **dict.fromkeys(random_sdxl.PRESETS, random_sdxl.make_sdxl),
    **dict.fromkeys(random_flux.PRESETS, random_flux.make_flux),
}
_OPTIONS: Mapping[Callable[..., Path], set[str]] = {
    make_checkpoint: {"in_channels", "prediction_type", "openclip"},
    random_sdxl.make_sdxl: {"in_channels", "turbo"},
    random_flux.make_flux: {"variant"},
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint with random weights.")
    parser.add_argument("out", metavar="OUT", help="directory to write")
    parser.add_argument("--preset", choices=sorted(MAKERS), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument(
        "--architecture", type=json.loads, default={}, metavar="JSON", help='sizes to replace: {"unet_layers": 1}'
    )
    some: dict[str, Any] = {"default": argparse.SUPPRESS}  # options that not every preset has
    parser.add_argument("--in-channels", type=int, choices=(4, 9), help="9 (default): inpainting; 4: plain", **some)
    parser.add_argument("--prediction-type", choices=("epsilon", "v_prediction"), **some)
    parser.add_argument("--openclip", action="store_true", help="Stable Diffusion 2's kind of text encoder", **some)
    parser.add_argument("--turbo", action="store_true", help="SDXL-Turbo's scheduler and native size", **some)
    parser.add_argument("--variant", choices=random_flux.VARIANTS, help="of FLUX.1; fill by default", **some)
    options = vars(parser.parse_args(argv))
    out, preset, architecture = options.pop("out"), options["preset"], options.pop("architecture")
    maker = MAKERS[preset]
    if unknown := options.keys() - {"preset", "seed", "half"} - _OPTIONS[maker]:
        parser.error(f"{preset} has no option {', '.join('--' + name.replace('_', '-') for name in sorted(unknown))}")
    transformers.utils.logging.disable_progress_bar()
    maker(out, **options, **architecture)
    size = sum(file.stat().st_size for file in Path(out).rglob("*.safetensors"))
    print(f"{out}: {size / 1e6:.0f} MB of random weights ({preset})")


if __name__ == "__main__":
    main()
