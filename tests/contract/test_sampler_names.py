"""Client and server read the names of other tools by one rule."""

from __future__ import annotations

import pytest

from gesso_backend.kinds.diffusion.samplers import ALGORITHMS, names
from gesso_client import NotFound, samplers
from gesso_client.parameter import Parameter

CHOICES = tuple(
    f"{name}{suffix}" for name, each in ALGORITHMS.items() for suffix in ("", *(f"_{s}" for s in each.spacings))
)
THEIRS = (
    "Euler a", "Euler", "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "DPMSolverMultistepScheduler", "k_euler_a", "UniPC",
    "EulerAncestralDiscreteScheduler", "DDIM", "dpmpp-2m", "none such", "", "x" * 100_000, "Heun", "LCM", "PLMS",
)  # fmt: skip


@pytest.mark.parametrize("theirs", THEIRS, ids=lambda name: name[:30])
def test_both_guess_the_same(theirs: str) -> None:
    assert samplers.nearest(theirs, CHOICES) == names.nearest(theirs, CHOICES)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Euler a", "euler_ancestral"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
    ],
)
def test_the_client_tells_the_nearest_before_anything_is_sent(theirs: str, ours: str) -> None:
    scheduler = Parameter("scheduler", "string", "BYTES", choices=CHOICES)
    with pytest.raises(NotFound) as caught:
        scheduler.tensor(theirs)
    assert str(caught.value).endswith(f"; did you mean {ours!r}?")
