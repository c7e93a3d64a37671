"""PNDM and its PLMS form (Liu, Ren, Lin and Zhao, arXiv:2202.09778)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from gesso_backend.kinds.diffusion.samplers.arguments import SamplerArguments, UnsupportedScheduler
from gesso_backend.kinds.diffusion.samplers.ddim import AlphaSchedule
from gesso_backend.kinds.diffusion.samplers.level import Linear, output, sample
from gesso_backend.kinds.diffusion.samplers.table import Row, Table, assemble

# Adams-Bashforth weights by how many outputs there are, newest first: equation 9's multistep estimates.
_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
_STAGES = 4  # of a Runge-Kutta step, and how many timesteps the warm-up covers


@dataclass(frozen=True, kw_only=True)
class PNDMSchedule(AlphaSchedule):
    """diffusers' PNDMScheduler, which does not know zero terminal SNR."""

    served: ClassVar[Mapping[str, tuple[object, ...]]] = {"prediction_type": ("epsilon", "v_prediction")}

    set_alpha_to_one: bool = False
    skip_prk_steps: bool = False
    rescale_betas_zero_snr: bool = field(default=False, init=False)


def pndm(config: Mapping[str, object], arguments: SamplerArguments) -> Table:
    """Move from level to level as DDIM does, on model outputs combined from several steps.

    Which formula a step uses depends on its place in the *sliced* list, for diffusers counts from where it starts; at
    strength < 1 the warm-up therefore runs on timesteps that were not meant for it, and so it does here.
    """
    schedule = PNDMSchedule.from_config(config)
    levels = schedule.levels()
    stride = schedule.num_train_timesteps // arguments.num_inference_steps
    timesteps = schedule.whole_timesteps(arguments)
    runge_kutta: list[int] = []
    if schedule.skip_prk_steps:
        timesteps[1:1] = timesteps[1:2]  # the second timestep twice: the first move is made, then corrected
    else:
        runge_kutta = _runge_kutta_timesteps(timesteps, stride)
        timesteps = runge_kutta + timesteps[_STAGES - 1 :]

    rows = []
    outputs_read: list[int] = []  # the steps whose outputs the multistep formulas read
    for i, timestep in enumerate(timesteps[arguments.begin :]):
        if i < len(runge_kutta):
            stage = i % _STAGES
            if stage == 0:
                outputs_read.append(i)
            x, prediction = sample(stage), _runge_kutta(stage)
            origin = runge_kutta[i - stage]
            target = timestep if stage % 2 else timestep - stride // 2
        elif i == 1:
            # The first move again, from where it started, with the mean of the outputs at its two ends (Heun).
            x, prediction = sample(1), _weighted((1 / 2, 1 / 2), (0, 1))
            origin, target = timestep + stride, timestep
        else:
            outputs_read = [*outputs_read[-3:], i]
            x, prediction = (
                sample(),
                _weighted(_ADAMS_BASHFORTH[len(outputs_read)], [i - step for step in reversed(outputs_read)]),
            )
            origin, target = timestep, timestep - stride
        x_next = levels.towards(target).mix(*levels.at(origin).estimates(schedule.prediction_type, x, prediction))
        x0, _ = levels.at(timestep).estimates(schedule.prediction_type, sample(), output())
        rows.append(Row(timestep=timestep, x_next=x_next, x0=x0))
    return assemble(rows, [levels.at(timestep) for timestep in timesteps[arguments.begin :]])


def _runge_kutta_timesteps(timesteps: list[int], stride: int) -> list[int]:
    """Where the network is called in the warm-up: the start, the middle twice and the end of each of three moves."""
    if len(timesteps) < _STAGES:
        raise UnsupportedScheduler.because("skip_prk_steps", False, f"needs at least {_STAGES} inference steps")
    moves = pairwise(timesteps[:_STAGES])
    return [t for start, end in moves for t in (start, end + stride // 2, end + stride // 2, end)]


def _runge_kutta(stage: int) -> Linear:
    """The slope a stage moves with: its own, and at the last stage the classical mean of all four."""
    if stage < _STAGES - 1:
        return output()
    return _weighted((1 / 6, 1 / 3, 1 / 3, 1 / 6), range(_STAGES))


def _weighted(weights: Sequence[float], lags: Sequence[int]) -> Linear:
    """The combination of the outputs of `lags` steps ago."""
    return sum((weight * output(lag) for weight, lag in zip(weights, lags, strict=True)), start=0 * output())
