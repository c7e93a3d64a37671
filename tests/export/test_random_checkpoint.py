"""examples/random_checkpoint.py: a checkpoint like any other, to diffusers too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import bundles
import random_checkpoint
import random_flux
import random_sdxl
from random_checkpoint import MAKERS, make_checkpoint
from random_flux import make_flux
from random_networks import Network
from random_sdxl import make_sdxl


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


@pytest.mark.parametrize(
    ("preset", "options", "pipeline"),
    [
        ("sdxl-tiny", {"in_channels": 4, "turbo": True}, "StableDiffusionXLPipeline"),
        ("sdxl-tiny", {"in_channels": 9}, "StableDiffusionXLInpaintPipeline"),
        ("flux-tiny", {"variant": "dev"}, "FluxPipeline"),
        ("flux-tiny", {"variant": "schnell"}, "FluxPipeline"),
        ("flux-tiny", {"variant": "fill"}, "FluxFillPipeline"),
    ],
)
def test_diffusers_paints_with_it(tmp_path: Path, preset: str, options: dict[str, Any], pipeline: str) -> None:
    """A picture with a range: a broken calibration paints grey, or nothing but black and white."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(MAKERS[preset](tmp_path, preset=preset, **options))
    assert type(pipe).__name__ == pipeline
    pipe.set_progress_bar_config(disable=True)
    size = {"width": 64, "height": 64}
    inputs: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 2, "output_type": "np", **size}
    if pipeline.endswith(("InpaintPipeline", "FillPipeline")):
        noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
        inputs |= {"image": Image.fromarray(noise), "mask_image": Image.new("L", (64, 64), 255)}
    image = pipe(**inputs, generator=torch.Generator().manual_seed(0)).images[0]  # [64, 64, 3], 0 to 1
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert 0.1 < image.std() < 0.4
    assert ((image == 0) | (image == 1)).mean() < 0.2


def test_the_prompt_has_a_say_in_sdxl(tmp_path: Path) -> None:
    """Each of its three ways in counts, or a test would not see it left out: tokens, pooled prompt, sizes."""
    pipe = StableDiffusionXLPipeline.from_pretrained(make_sdxl(tmp_path, in_channels=4))
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[256.0, 256, 0, 0, 256, 256]])

    def answer(tokens: torch.Tensor, pooled: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        return pipe.unet(
            latents, 500.0, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        ).sample  # [1, 4, 32, 32]

    with torch.inference_mode():
        texts = "a cat", "rain over a city"
        (cat, _, cat_pooled, _), (rain, _, rain_pooled, _) = (
            pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False) for text in texts
        )
        first = answer(cat, cat_pooled, sizes)
        others = [
            answer(rain, cat_pooled, sizes),
            answer(cat, rain_pooled, sizes),
            answer(cat, cat_pooled, sizes.roll(2)),
        ]
    assert 0.5 < first.std() < 2
    assert all((other - first).std() > 0.01 for other in others)


def test_the_prompt_has_a_say_in_flux(tmp_path: Path) -> None:
    """Each of its ways in counts, or a test would not see it left out: tokens, pooled prompt, guidance, places."""
    pipe = FluxPipeline.from_pretrained(make_flux(tmp_path, variant="dev"))
    tokens = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    places = pipe._prepare_latent_image_ids(1, 8, 8, torch.device("cpu"), torch.float32)

    def answer(prompt: torch.Tensor, pooled: torch.Tensor, guidance: float, places: torch.Tensor) -> torch.Tensor:
        return pipe.transformer(
            tokens, prompt, pooled, torch.tensor([0.5]), places, ids, torch.tensor([guidance])
        ).sample  # [1, 64, 64]

    with torch.inference_mode():
        (cat, cat_pooled, ids), (rain, rain_pooled, _) = (
            pipe.encode_prompt(text, text, device="cpu", max_sequence_length=32) for text in ("a cat", "rain, a city")
        )
        first = answer(cat, cat_pooled, 3.5, places)
        others = [
            answer(rain, cat_pooled, 3.5, places),
            answer(cat, rain_pooled, 3.5, places),
            answer(cat, cat_pooled, 7.0, places),
            answer(cat, cat_pooled, 3.5, places.roll(1)),
        ]
    assert 0.5 < first.std() < 2
    assert all((other - first).std() > 0.01 for other in others)


@pytest.mark.parametrize("preset", ["sdxl-tiny", "flux-tiny"])
def test_the_seed_decides_the_weights_of_every_family(tmp_path: Path, preset: str) -> None:
    first, again, half = (
        weights(MAKERS[preset](tmp_path / str(number), preset=preset, seed=3, half=half))
        for number, half in enumerate([False, False, True])
    )
    assert all(first[name].equal(again[name]) for name in first)
    assert all(half[name].equal(first[name].half()) for name in first)


def parameters(network: Network) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in network.build().parameters())


def test_the_full_presets_have_the_published_sizes() -> None:
    counts = {name: parameters(network) for name, network in random_sdxl.networks("sdxl", in_channels=4).items()}
    assert counts == {
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "unet": 2_567_463_684,
        "vae": 83_653_863,
    }
    counts = {name: parameters(network) for name, network in random_flux.networks("flux", variant="dev").items()}
    assert counts == {
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
        "transformer": 11_901_408_320,
        "vae": 83_819_683,
    }


def test_the_t5_vocabulary_reads_back_what_it_wrote(tmp_path: Path) -> None:
    """transformers and the tokenizers library alone give the same ids, all of them rows of the encoder's table."""
    made = make_flux(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(made / "tokenizer_2")
    text = "a cat on the Mat, 3 zebras & an axolotl's hat!"
    ids = tokenizer(text).input_ids
    assert ids == Tokenizer.from_file(str(made / "tokenizer_2" / "tokenizer.json")).encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert ids[-1] == 1
    assert tokenizer("ж").input_ids == [3, 2, 1]
    assert tokenizer.model_max_length == 512
    rows = json.loads((made / "text_encoder_2/config.json").read_text())["vocab_size"]
    assert len(ids) < len(text)
    assert max(tokenizer.get_vocab().values()) == tokenizer.convert_tokens_to_ids("<extra_id_0>") < rows


def test_turbo_and_schnell_have_schedulers_of_their_own(tmp_path: Path) -> None:
    turbo, schnell = make_sdxl(tmp_path / "turbo", turbo=True), make_flux(tmp_path / "schnell", variant="schnell")
    config = json.loads((turbo / "scheduler/scheduler_config.json").read_text())
    assert config["_class_name"] == "EulerAncestralDiscreteScheduler"
    assert config["timestep_spacing"] == "trailing"
    assert json.loads((turbo / "unet/config.json").read_text())["sample_size"] == 16
    config = json.loads((schnell / "scheduler/scheduler_config.json").read_text())
    assert (config["shift"], config["use_dynamic_shifting"]) == (1.0, False)
    assert json.loads((schnell / "transformer/config.json").read_text())["guidance_embeds"] is False


def test_the_command_line_knows_which_options_a_preset_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        random_checkpoint.main([str(tmp_path), "--preset", "flux-tiny", "--in-channels", "4"])
    assert "flux-tiny has no option --in-channels" in capsys.readouterr().err
    random_checkpoint.main([str(tmp_path), "--preset", "flux-tiny", "--variant", "schnell", "--half"])
    assert "flux-tiny" in capsys.readouterr().out
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "FluxPipeline"
