"""The simulator beside two of the runs.

It is given the costs that the server measured, the pace of each run (what its steps took, to what the costs say of
them: the machine's own speed drifts) and the serving overhead of a request alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load.sending import Answer
from benchmarks.load.servers import BATCHED_FIFO, DEFAULT, FIFO, ORDER_ALONE
from benchmarks.simulate.curves import paced
from benchmarks.simulate.simulation import DENOISER, LATENTS, Arrival, Overheads, simulate
from gesso_backend.engines import engine
from gesso_backend.kinds import open_bundle
from gesso_backend.serving import measure
from gesso_backend.serving import policy as policies
from gesso_backend.serving.costs import Costs, RowCaps
from gesso_backend.serving.policy import Policy
from gesso_backend.settings import Settings


def simulated(
    folder: Path, arrivals: Sequence[Arrival], alone: Sequence[Answer], answers: Mapping[str, Sequence[Answer]]
) -> dict[str, dict[str, float]]:
    """What the simulator says of two of the runs, each at the machine's pace of that run."""
    costs = server_costs(folder)
    overheads = Overheads(request=statistics.fmean(answer.seconds - answer.networks for answer in alone))
    return {
        name: simulate(
            arrivals, policy(name, costs), paced(costs, pace(costs, arrivals, answers[name])), overheads
        ).row()
        for name in (FIFO, DEFAULT)
    }


def pace(costs: Costs, arrivals: Sequence[Arrival], answers: Sequence[Answer]) -> float:
    """What the steps of a run took, to what the costs say of steps of so many rows."""
    expected = (
        arrival.steps * costs.estimate(DENOISER, round(answer.rows), LATENTS)
        for arrival, answer in zip(arrivals, answers, strict=True)
    )
    return sum(answer.steps for answer in answers) / sum(expected)


def policy(name: str, costs: Costs) -> Policy:
    caps = RowCaps(costs, 2, 1) if name in (FIFO, ORDER_ALONE) else RowCaps(costs, 0, 0)
    return policies.make("fifo" if name in (FIFO, BATCHED_FIFO) else "srpt", caps)


def server_costs(folder: Path) -> Costs:
    """Those that the servers of this bundle measured, out of their cache."""
    settings, bundle = Settings(bundle=str(folder)), open_bundle(folder)
    return measure.load_or_measure(bundle, engine.load(settings, folder, bundle), settings)
