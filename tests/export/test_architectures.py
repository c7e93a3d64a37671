"""gesso-export check-architecture: the published models at full size, on the meta device, from their configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gesso_export.networks.clip import TextEncoder
from gesso_export.published.models import MODELS, Count, PublishedComponent

Command = Callable[..., tuple[int, str]]


def alter(monkeypatch: pytest.MonkeyPatch, model: str, component: str, **changes: Any) -> None:
    """Change keys of the config of a published model's component."""
    checkpoint = MODELS[model].checkpoint
    part = checkpoint.components[component]
    assert isinstance(part, PublishedComponent)
    other = replace(part, settings={**part.settings, **changes})
    checkpoint = replace(checkpoint, components={**checkpoint.components, component: other})
    monkeypatch.setitem(MODELS, model, replace(MODELS[model], checkpoint=checkpoint))


# All that is theirs is checked with the other models of their families.
SLOW = ("sd14", "sd21", "sdxl", "sdxl-turbo", "flux-dev")


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.slow] if model in SLOW else []) for model in MODELS]
)
def test_a_published_model_is_what_we_make_of_it(model: str, gesso_export: Command) -> None:
    """Guards the families against the real configs and sizes, which no test's checkpoint has."""
    code, output = gesso_export("check-architecture", model)
    assert code == 0, output
    header, *lines = output.splitlines()  # after the table may come what a library says on stderr
    assert header.split()[:3] == ["model", "network", "parameters"]
    rows = [line.split() for line in lines if line.startswith(f"{model} ")]
    assert [row[1] for row in rows] == list(MODELS[model].counts), output
    assert all(row[5] == "yes" for row in rows), output


def test_the_halves_of_a_vae_make_the_published_whole() -> None:
    """Guards the only counts of many models that nobody publishes."""
    wholes = {
        name: sum(model.counts[half].parameters for half in ("vae_encoder", "vae_decoder"))
        for name, model in MODELS.items()
    }
    assert wholes == {name: 83_819_683 if name.startswith("flux") else 83_653_863 for name in MODELS}


def test_a_wrong_count_fails_and_names_the_network(gesso_export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a check that cannot fail, and one that stops at the first fault."""
    counts = {**MODELS["sd15"].counts, "unet": Count(859_520_965)}
    monkeypatch.setitem(MODELS, "sd15", replace(MODELS["sd15"], counts=counts))
    code, output = gesso_export("check-architecture", "sd15")
    assert code == 1
    *table, last = output.splitlines()
    assert last == "gesso-export: error: sd15: unet: has 859,520,964 parameters, not 859,520,965"
    assert [row.split()[5] for row in table[1:]] == ["yes", "no", "yes", "yes"]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda ids: torch.zeros(*ids.shape, 767), "prompt_embeds is ('torch.float32', (2, 77, 767)), not "),
        (lambda ids: torch.zeros(*ids.shape, 768).half(), "prompt_embeds is ('torch.float16', (2, 77, 768)), not "),
        (lambda ids: (ids, ids), "has 2 outputs, not 1"),
        (lambda ids: ids @ torch.zeros(5, 5), "cannot be run at {'batch': 2,"),
    ],
)
def test_a_wrong_output_fails_and_names_the_network(
    answer: Callable[[torch.Tensor], Any], fault: str, gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the shapes, types and number of what the wrappers answer, none of which a count would tell."""
    monkeypatch.setattr(TextEncoder, "forward", lambda _self, ids, _clip_skip: answer(ids))
    code, output = gesso_export("check-architecture", "sd15")
    assert code == 1
    assert f"gesso-export: error: sd15: text_encoder: {fault}" in output


def test_a_config_that_cannot_be_built_is_reported(gesso_export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback of diffusers'."""
    alter(monkeypatch, "sd15", "unet", down_block_types=["NoSuchBlock"] * 4)
    code, output = gesso_export("check-architecture", "sd15")
    assert code == 1
    assert "gesso-export: error: sd15: unet: cannot be built: " in output
    assert "Traceback" not in output


def test_a_config_that_is_refused_is_reported_and_the_others_are_checked(
    gesso_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family that grows too strict for a published model must not pass for one that is not there."""
    alter(monkeypatch, "sd15", "unet", in_channels=5)
    code, output = gesso_export("check-architecture", "sd15", "sd14")
    assert code == 1
    assert output.splitlines()[-1].startswith(
        "gesso-export: error: sd15: unet: in_channels is 5; supported are 4 and 9"
    )
    assert [row.split()[0] for row in output.splitlines()[1:-1]] == ["sd14"] * 4


def test_an_unknown_name_is_refused_with_the_list(gesso_export: Command) -> None:
    code, output = gesso_export("check-architecture", "sd15", "sd99")
    assert code == 2
    assert output == f"gesso-export: error: 'sd99' is no published model; those are {', '.join(MODELS)}\n"
