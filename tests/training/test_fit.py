"""The training loop: stopping it anywhere changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import fit as fit_module
from training.fit import Schedule, fit

SCHEDULE = Schedule(steps=30, learning_rate=0.05, warmup=5, ema=0.9, seed=3)
CPU = torch.device("cpu")


class Interrupted(Exception):
    pass


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def loss(model: nn.Module, random: torch.Generator, step: int) -> Mapping[str, Tensor]:
    x = torch.randn(16, 2, generator=random)
    y = x @ torch.tensor([[2.0], [-1.0]]) + 0.5
    return {"squared": (model(x) - y).square().mean()}


def interrupted_at(stop: int):  # type: ignore[no-untyped-def]
    def stopping(model: nn.Module, random: torch.Generator, step: int) -> Mapping[str, Tensor]:
        if step == stop:
            raise Interrupted
        return loss(model, random, step)

    return stopping


def weights(model: nn.Module) -> list[list[float]]:
    return [parameter.flatten().tolist() for parameter in model.parameters()]


@pytest.mark.parametrize("stop", [1, 17, 29])
def test_an_interrupted_run_ends_in_the_weights_of_a_straight_one(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the optimiser's state, the average and the batches: all of them must go on where they were."""
    monkeypatch.setattr(fit_module, "SAVE_SECONDS", -1.0)  # save after every step
    straight = fit("line", line(), loss, SCHEDULE, tmp_path / "straight", CPU)
    with pytest.raises(Interrupted):
        fit("line", line(), interrupted_at(stop), SCHEDULE, tmp_path / "broken", CPU)
    resumed = fit("line", line(), loss, SCHEDULE, tmp_path / "broken", CPU)
    assert weights(resumed) == weights(straight)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = fit("line", line(), loss, SCHEDULE, tmp_path, CPU)
    again = fit("line", line(), interrupted_at(0), SCHEDULE, tmp_path, CPU)  # would raise if it took a step
    assert weights(again) == weights(first)


def test_training_brings_the_loss_down(tmp_path: Path) -> None:
    schedule = Schedule(steps=300, learning_rate=0.05, warmup=5, ema=0.9)
    trained = fit("line", line(), loss, schedule, tmp_path, CPU)
    before, after = (loss(model, torch.Generator().manual_seed(9), 0)["squared"].item() for model in (line(), trained))
    assert after < 0.01 * before


def test_the_rate_rises_then_falls_to_a_hundredth() -> None:
    schedule = Schedule(steps=1000, learning_rate=1.0, warmup=10, decay=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(9) == schedule.rate(500) == 1.0
    assert schedule.rate(750) == pytest.approx(0.505)
    assert schedule.rate(1000) == pytest.approx(0.01)
