"""A sampler as a table: one row of scalars per step, and the pure function that applies a row.

Nothing here knows which sampler filled the table or what the network predicts, so one batch may mix them all. The
history that a row reads and the noise stream live on the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gesso_backend.kinds.diffusion.samplers.level import CLEAN, Level, Linear

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """The one part of a row that is not linear: `weight * clip(x0, -limit, limit)` is added, and the rest has no x0."""

    limit: float
    weight: float


@dataclass(frozen=True)
class Step:
    """One row: `x_next = sum_k x[k]*x[-k] + sum_k model_output[k]*output[-k] + noise*draw`, plus the clip if any.

    `x[-k]` is the sample as it was k steps before and `output[-k]` what the network said then; k = 0 is this step.
    Levels are `(signal, sigma)`: `signal*clean + sigma*noise`.
    """

    timestep: float  # what the network is given
    input_scale: float  # the network sees input_scale * x
    x: tuple[float, ...]
    model_output: tuple[float, ...]
    noise: float | None  # weight of a fresh draw; 0.0 still draws, to keep the stream aligned; None draws nothing
    x0: tuple[float, float]  # the clean image is estimated as x0[0]*x + x0[1]*output
    clip: Clip | None
    renoise: tuple[float, float]  # the level kept latents are noised to: the next step's, (1.0, 0.0) after the last


@dataclass(frozen=True)
class Table:
    """Every step of one request, first to last."""

    steps: tuple[Step, ...]
    init_noise_sigma: float  # a start from pure noise is noise * init_noise_sigma
    start: tuple[float, float]  # the level of the first step: a start from an image is signal*image + sigma*noise

    @property
    def history(self) -> tuple[int, int]:
        """How many samples and how many model outputs a request must hold for `advance`, the current ones included."""
        return max(len(step.x) for step in self.steps), max(len(step.model_output) for step in self.steps)


def advance(step: Step, xs: Sequence[Array], outputs: Sequence[Array], noise: Array | None) -> Array:
    """The sample after `step`, a new float32 array of the shape of `xs[0]`.

    `xs` is (x, x[-1], ...) and `outputs` is (output, output[-1], ...), newest first and at least as long as the step's
    weights (`Table.history` is always enough). `noise` is a fresh draw, needed exactly when `step.noise` is not None.
    """
    assert len(xs) >= len(step.x), "fewer samples than weights"
    assert len(outputs) >= len(step.model_output), "fewer model outputs than weights"
    assert (noise is None) == (step.noise is None), "a draw is due exactly where the step says so"
    x_next = np.zeros_like(xs[0])
    for weight, array in chain(zip(step.x, xs, strict=False), zip(step.model_output, outputs, strict=False)):
        if weight:
            x_next += weight * array
    if noise is not None and step.noise:
        x_next += step.noise * noise
    if step.clip is not None:
        x_next += step.clip.weight * estimate_x0(step, xs[0], outputs[0])
    return x_next


def estimate_x0(step: Step, x: Array, output: Array) -> Array:
    """The clean latents as `step` sees them (diffusers' `pred_original_sample`), clipped if the step clips."""
    of_x, of_output = step.x0
    x0 = of_x * x + of_output * output
    return x0 if step.clip is None else np.clip(x0, -step.clip.limit, step.clip.limit)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a sampler says of one step, in symbols (see `level`); `assemble` writes it out in numbers."""

    timestep: float
    x_next: Linear
    x0: Linear
    input_scale: float = 1.0
    noise: float | None = None
    clip: Clip | None = None


def assemble(rows: Sequence[Row], levels: Sequence[Level], init_noise_sigma: float = 1.0) -> Table:
    """The table of `rows`, the sample being at `levels[i]` before row i; levels beyond the last row are not read.

    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("no step is left to run")
    after = [*levels[1 : len(rows)], CLEAN]
    return Table(
        steps=tuple(
            Step(
                timestep=float(row.timestep),
                input_scale=row.input_scale,
                x=_weights(row.x_next[0]),
                model_output=_weights(row.x_next[1]),
                noise=row.noise,
                x0=(float(row.x0[0, 0]), float(row.x0[1, 0])),
                clip=row.clip,
                renoise=(level.signal, level.sigma),
            )
            for row, level in zip(rows, after, strict=True)
        ),
        init_noise_sigma=init_noise_sigma,
        start=(levels[0].signal, levels[0].sigma),
    )


def _weights(form: NDArray[np.float64]) -> tuple[float, ...]:
    """Plain floats (numpy's own would turn float32 arrays into float64), at least one, without trailing zeros."""
    return tuple(np.trim_zeros(form, "b").tolist()) or (0.0,)
