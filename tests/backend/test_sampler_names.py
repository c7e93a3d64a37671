"""Samplers as the world spells them."""

from __future__ import annotations

import pytest

from backend.fakes import fake_bundle, inputs
from gesso_backend.errors import NotFound
from gesso_backend.kinds.diffusion.request import parse


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Euler a", "euler_ancestral"), ("Euler", "euler"), ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras"), ("DPMSolverMultistepScheduler", "dpmpp_2m"), ("DDIM", "ddim"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral"), ("k_euler_a", "euler_ancestral"), ("UniPC", "unipc"),
        ("UniPCMultistepScheduler", "unipc"), ("k_heun", "heun"), ("LCM", "lcm"), ("dpmpp-2m", "dpmpp_2m"),
    ],
)  # fmt: skip
def test_an_unknown_sampler_is_told_with_the_nearest(theirs: str, ours: str) -> None:
    """Guards those who come from web UI, ComfyUI or diffusers: the list alone has forty names."""
    with pytest.raises(NotFound) as caught:
        parse(inputs(scheduler=theirs), fake_bundle())
    assert str(caught.value).startswith(f"NOT_FOUND: scheduler: {theirs!r} is not one of ddim, ")
    assert str(caught.value).endswith(f"; did you mean {ours!r}?")


@pytest.mark.parametrize("name", ["none such", "", "x" * 100_000])
def test_a_name_like_none_is_told_without(name: str) -> None:
    """Guards against guesses, and against a refusal as long as what was sent."""
    with pytest.raises(NotFound) as caught:
        parse(inputs(scheduler=name), fake_bundle())
    assert "did you mean" not in str(caught.value)
    assert len(str(caught.value)) < 1500
