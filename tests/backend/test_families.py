"""The families: that the loop knows none of them, and the arithmetic that is theirs alone."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline
from diffusers.pipelines.flux.pipeline_flux_fill import calculate_shift

import gesso_backend
from backend.fakes import FakeTokenizer
from gesso_backend.kinds.diffusion.families import FAMILIES
from gesso_backend.kinds.diffusion.families.flux import _mu
from gesso_backend.kinds.diffusion.request import Request

SOURCE = Path(gesso_backend.__file__).parent
FLUX: Any = FAMILIES["flux"]
SDXL: Any = FAMILIES["stable-diffusion-xl"]


def request(**values: Any) -> Request:
    base: dict[str, Any] = {
        "task": "text_to_image", "prompt": "p", "image": None, "mask_image": None, "height": 64, "width": 96,
        "num_inference_steps": 4, "strength": 1.0, "seed": 0, "scheduler": "flow_euler", "num_images_per_prompt": 1,
        "padding_mask_crop": None, "mask_feather": 0, "latent_blend": True, "require_native": False, "preview_every": 0,
    }  # fmt: skip
    return Request(**{**base, **values})


def answered(conditions: Any, networks: dict[str, Any]) -> Any:
    """Drive `condition` with these networks; returns the denoiser's inputs."""
    answer = None
    while True:
        try:
            call = conditions.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = networks[call.network](**call.inputs)


def test_every_family_is_found_by_its_module() -> None:
    """Guards the promise that adding one touches one file of the backend."""
    assert set(FAMILIES) == {"stable-diffusion", "stable-diffusion-xl", "flux"}
    assert FAMILIES["flux"].text_encoders == ("text_encoder", "text_encoder_2")


# Of the diffusion kind, what every family goes through.
SHARED = ["denoise", "prepared", "paint", "diffusion", "request"]


@pytest.mark.parametrize("name", [*(f"kinds/diffusion/{name}" for name in SHARED), "pixels/mask", "pixels/canvas"])
def test_what_every_family_goes_through_knows_none(name: str) -> None:
    """Guards the seam: what a family does differently is asked of it, not looked up by its name."""
    text = (SOURCE / f"{name}.py").read_text(encoding="utf-8").lower()
    for word in ("sdxl", "flux", "unet", "transformer", "time_ids", "stable-diffusion-xl"):
        assert f'"{word}' not in text, word
    assert "import flux" not in text
    assert "import sdxl" not in text


# What is left of other kinds' words in what every kind goes through: the wire's names, and a setting's.
DIFFUSION = re.compile(
    r"denois|latent(?!s\"|_)|encod(?!ing=|e\()|sampler|\bsteps\b|unet|text_encoder|vae(?!_rows)|prompt"
)


@pytest.mark.parametrize("file", sorted((SOURCE / "serving").glob("*.py")), ids=lambda file: file.name)
def test_serving_knows_no_kind(file: Path) -> None:
    """Guards the loop, the jobs, the policy, the costs and the metrics: they are every kind's."""
    code = "\n".join(line.partition("#")[0] for line in file.read_text(encoding="utf-8").splitlines())
    code = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
    if file.name == "responses.py":
        return  # it knows two inputs of the wire by name
    assert not DIFFUSION.findall(code)


# FLUX


def test_fills_mask_is_laid_out_as_its_pipeline_packs_it() -> None:
    """Guards the 64 mask channels of a latent; packed two by two they are the pipeline's 256."""
    repaint = (np.random.default_rng(0).random((1, 1, 32, 48)) < 0.5).astype(np.float32)
    masked_image = np.random.default_rng(1).standard_normal((1, 16, 4, 6)).astype(np.float32)
    channels = np.concatenate(FLUX.mask_channels(np.zeros((1, 1, 4, 6), np.float32), repaint, masked_image), axis=1)
    ours = torch.nn.functional.pixel_unshuffle(torch.from_numpy(channels), 2).flatten(2).transpose(1, 2)

    vae = SimpleNamespace(config=SimpleNamespace(shift_factor=0.0, scaling_factor=1.0))
    pipeline = SimpleNamespace(vae=vae, vae_scale_factor=8, _pack_latents=FluxFillPipeline._pack_latents)
    mask, latents = FluxFillPipeline.prepare_mask_latents(
        pipeline,
        torch.from_numpy(repaint),
        torch.from_numpy(masked_image),
        1,
        16,
        1,
        32,
        48,
        torch.float32,
        "cpu",
        None,
    )
    np.testing.assert_array_equal(ours.numpy(), torch.cat([latents, mask], dim=2).numpy())


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096, 9000])
def test_the_shift_is_that_of_the_pipeline(tokens: int) -> None:
    """Guards the line through two points, and its ends, with the config's numbers and with the defaults."""
    assert _mu({}, tokens) == pytest.approx(calculate_shift(tokens))
    config = {"base_image_seq_len": 100, "max_image_seq_len": 1000, "base_shift": 0.1, "max_shift": 2.0}
    assert _mu(config, tokens) == pytest.approx(calculate_shift(tokens, 100, 1000, 0.1, 2.0))


def test_flux_is_guided_by_true_cfg_scale_alone() -> None:
    """Guards the price: the distilled guidance is one row."""
    assert FLUX.guidance(request(guidance_scale=30.0)) == 1.0
    assert FLUX.guidance(request(guidance_scale=30.0, true_cfg_scale=4.0)) == 4.0


# SDXL


def sdxl_conditions(zeros: bool, **values: Any) -> Any:
    """With text encoders whose every embedding is the token's id, and a pooled one that is the first token's."""
    bundle: Any = SimpleNamespace(options={"force_zeros_for_empty_prompt": zeros})
    tokenizers: Any = {"text_encoder": FakeTokenizer(), "text_encoder_2": FakeTokenizer()}

    def encoder(input_ids: Any, clip_skip: Any) -> Any:
        embeds = np.repeat((input_ids - 1000 * clip_skip[:, None])[..., None].astype(np.float32), 2, axis=2)
        return {"prompt_embeds": embeds, "text_embeds": input_ids[:, :1].astype(np.float32)}

    asked = request(guidance_scale=5.0, long_prompt=True, **values)
    texts = SDXL.encode(asked, bundle, tokenizers).texts
    return answered(
        SDXL.condition(asked, bundle, texts, (64, 96)), dict.fromkeys(("text_encoder", "text_encoder_2"), encoder)
    )


def test_no_negative_prompt_is_zeros_where_the_checkpoint_says_so() -> None:
    """Guards force_zeros_for_empty_prompt, which changes every guided picture; clip_skip is the prompt's alone."""
    found = sdxl_conditions(True, clip_skip=1)
    assert (found["encoder_hidden_states"][0] == 0).all()
    assert (found["text_embeds"][0] == 0).all()
    assert found["encoder_hidden_states"][1, 0, 0] == ord("p") - 1000
    found = sdxl_conditions(False, clip_skip=1)
    assert found["encoder_hidden_states"][:, 0, 0].tolist() == [2, ord("p") - 1000]  # the empty text, not skipped


@pytest.mark.parametrize(("zeros", "expected"), [(True, ord("n") / 2), (False, (ord("n") + 2) / 2)])
def test_half_a_negative_prompt_is_half_way_from_nothing(zeros: bool, expected: float) -> None:
    """Guards what nothing is: zeros or the empty text, by the checkpoint; of the pooled text too."""
    found = sdxl_conditions(zeros, negative_prompt="n", negative_prompt_strength=0.5)
    assert found["encoder_hidden_states"][:, 0, 0].tolist() == [expected, ord("p")]
    assert found["text_embeds"][:, 0].tolist() == [expected, ord("p")]


def test_the_two_encoders_texts_are_joined_token_by_token() -> None:
    """Guards a long prompt beside a short second one: both have as many chunks."""
    found = sdxl_conditions(True, prompt="a" * 20, prompt_2="b", negative_prompt="n")
    hidden = found["encoder_hidden_states"]
    assert hidden.shape == (2, 24, 4)
    assert hidden[1, 16].tolist() == [ord("a"), ord("a"), 2, 2]
    assert hidden[1, 0].tolist() == [ord("a"), ord("a"), ord("b"), ord("b")]
    assert found["text_embeds"][1].tolist() == [ord("b")]


def test_sizes_that_are_not_said_are_the_canvas_and_those_of_the_negative_the_positive_ones() -> None:
    """Guards the six numbers and their order."""
    assert sdxl_conditions(True)["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] * 2
    said = {"original_size": (1, 2), "crops_coords_top_left": (3, 4), "negative_target_size": (5, 6)}
    found = sdxl_conditions(True, **said)["time_ids"].tolist()
    assert found == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 64, 96]]
