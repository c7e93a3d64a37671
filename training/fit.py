"""A training loop that can be stopped anywhere and goes on where it was.

Whatever is random in step k comes from (seed, k), so an interrupted run and a straight one see the same batches.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_SECONDS = 120.0
REPORT_STEPS = 50


@dataclass(frozen=True)
class Schedule:
    steps: int
    learning_rate: float
    warmup: int = 100
    decay: float = 0.5  # the last part of the steps, over which the rate falls to a hundredth
    weight_decay: float = 0.01
    ema: float = 0.999
    seed: int = 0

    def rate(self, step: int) -> float:
        left = (self.steps - step) / max(1, self.decay * self.steps)
        fall = 1.0 if left >= 1 else 0.01 + 0.99 * 0.5 * (1 - math.cos(math.pi * left))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * fall


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[nn.Module, torch.Generator, int], Mapping[str, Tensor]],
    schedule: Schedule,
    folder: Path,
    device: torch.device,
) -> nn.Module:
    """Train `model` on the sum of what `loss` returns (its parts, by name, are kept as curves in `folder`).

    Returns the exponential moving average of the weights. Goes on from `folder/name.pt` if that is there, and returns
    at once if it is of the last step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.pt"
    model.to(device).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay, fused=True
    )
    step, spent = 0, 0.0
    curves: list[dict[str, float]] = []
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        step, spent, curves = state["step"], state["seconds"], state["curves"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    started = saved = time.monotonic()
    sums: dict[str, float] = {}
    seen = 0  # steps in `sums`

    def save() -> None:
        state = {
            "step": step,
            "curves": curves,
            "seconds": spent + time.monotonic() - started,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": asdict(schedule),
        }
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        (folder / f"{name}.json").write_text(json.dumps({"seconds": state["seconds"], "curves": curves}))

    while step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        random = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        parts = loss(model, random, step)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        share = 1 - min(schedule.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
        step, seen = step + 1, seen + 1
        for key, value in parts.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        if step % REPORT_STEPS == 0 or step == schedule.steps:
            row = {"step": step, **{key: value / seen for key, value in sums.items()}}
            curves.append(row)
            sums, seen = {}, 0
            rate = (time.monotonic() - started) / 60
            print(name, " ".join(f"{key} {value:.4g}" for key, value in row.items()), f"{rate:.1f} min", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS or step == schedule.steps:
            save()
            saved = time.monotonic()
    return average
