"""examples/random_checkpoint.py: a checkpoint like any other, to diffusers too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from safetensors.torch import load_file

import bundles
from random_checkpoint import make_checkpoint


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{file.parent.name}.{key}": value for file in files for key, value in load_file(file).items()}


def test_diffusers_loads_it_and_its_answers_are_of_a_trained_networks_size(exported: tuple[Path, Path]) -> None:
    """Untrained networks answer with almost nothing: everything agrees with everything, and no test can fail."""
    pipe = StableDiffusionInpaintPipeline.from_pretrained(exported[0])
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        latents = torch.randn(1, 9, 32, 32, generator=generator)
        prompts = [pipe.encode_prompt(text, "cpu", 1, False)[0] for text in ("a cat", "rain over a city")]
        first, second = (pipe.unet(latents, 500.0, prompt).sample for prompt in prompts)
        image = pipe.vae.decode(latents[:, :4] / pipe.vae.config.scaling_factor).sample
        moments = pipe.vae.encode(torch.rand(1, 3, 128, 128, generator=generator) * 2 - 1).latent_dist
    assert 0.5 < first.std() < 2
    assert (first - second).std() > 0.01
    assert 0.2 < image.std() < 0.8
    assert (image.abs() > 1).float().mean() < 0.1
    assert 0.5 < (moments.mean * pipe.vae.config.scaling_factor).std() < 2


def test_the_plain_pipeline_loads_a_four_channel_one(other: tuple[Path, Path]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(other[0])
    assert pipe.unet.config.in_channels == 4
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.tokenizer.pad_token_id == 0
    assert pipe.text_encoder.config.hidden_act == "gelu"


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    made = [
        weights(make_checkpoint(tmp_path / str(number), seed=seed, half=half, **bundles.MICRO))
        for number, (seed, half) in enumerate([(3, False), (3, False), (4, False), (3, True)])
    ]
    first, again, different, half = made
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["unet.conv_in.weight"].equal(different["unet.conv_in.weight"])
    assert all(half[name].equal(first[name].half()) for name in first)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_the_scheduler_file_is_what_was_asked_for(tmp_path: Path, name: str) -> None:
    made = make_checkpoint(tmp_path, scheduler=name, scheduler_config={"timestep_spacing": "trailing"}, **bundles.MICRO)
    config = json.loads((made / "scheduler/scheduler_config.json").read_text())
    assert config["_class_name"] == name
    assert config["timestep_spacing"] == "trailing"
    assert config["beta_schedule"] == "scaled_linear"
    assert json.loads((made / "model_index.json").read_text())["scheduler"] == ["diffusers", name]
