"""Requests on a virtual clock, in the order and the batches that a serving policy gives them.

A network call takes what the costs say, and nothing else takes any time but `Overheads`. The load benchmark holds
two points of it against the real server.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.harness.quantiles import quantile
from gesso_backend.kinds.kind import Work
from gesso_backend.serving.costs import Costs
from gesso_backend.serving.policy import Policy
from gesso_backend.serving.priority import NORMAL

DENOISER = "unet"
ROWS = 2  # of a step: with guidance
LATENTS = 16 * 16  # of a picture
FACTOR = 64  # pixels per latent
PHASES = ("text_encoder", "vae_encoder", "vae_encoder")  # before the steps


@dataclass(frozen=True)
class Arrival:
    at: float
    steps: int
    priority: str = NORMAL


@dataclass(frozen=True)
class Overheads:
    """Seconds that are no engine's."""

    request: float = 0.0  # from the client to the loop and back, beside what runs
    call: float = 0.0  # in the loop, for each call


NONE = Overheads()


@dataclass(frozen=True)
class Call:
    network: str
    rows: int
    pixels: int

    @property
    def key(self) -> str:
        return self.network

    @property
    def step(self) -> bool:
        return self.network == DENOISER


@dataclass(eq=False)
class Request:
    """As the policies know it; the simulation counts its calls."""

    submitted: float
    steps: int
    priority: str
    call_seconds: float  # of a step, run alone
    done: int = 0  # of all its calls

    @property
    def work(self) -> Work:
        return Work(DENOISER, self.steps, ROWS, (1, LATENTS))

    @property
    def calls_left(self) -> int:
        """Steps."""
        return self.steps - max(0, min(self.done - len(PHASES), self.steps))

    @property
    def call(self) -> Call | None:
        """The next one; None when all have run."""
        if self.done < len(PHASES):
            vae = PHASES[self.done] != "text_encoder"
            return Call(PHASES[self.done], 1 if vae else ROWS, LATENTS * FACTOR if vae else 1)
        if self.calls_left:
            return Call(DENOISER, ROWS, LATENTS)
        return Call("vae_decoder", 1, LATENTS) if self.done == len(PHASES) + self.steps else None


@dataclass(eq=False)
class Waiting:
    """A request that waits for its next call."""

    run: Request
    arrival: int
    call: Call


@dataclass
class Outcome:
    """latencies: in the order of the arrivals, seconds. busy: from the first arrival to the last answer."""

    latencies: list[float]
    busy: float
    rows: list[int] = field(default_factory=list)  # of each step

    def row(self) -> dict[str, float]:
        return {
            "mean": statistics.fmean(self.latencies),
            "p50": quantile(self.latencies, 0.50),
            "p99": quantile(self.latencies, 0.99),
            "max": max(self.latencies),
            "per_second": len(self.latencies) / self.busy,
            "rows_per_step": statistics.fmean(self.rows) if self.rows else 0.0,
        }


def simulate(
    arrivals: Sequence[Arrival],
    policy: Policy,
    costs: Costs,
    overheads: Overheads = NONE,
) -> Outcome:
    """Run the arrivals (in order of time) to their end."""
    now = arrivals[0].at
    coming = list(reversed(arrivals))
    ready: list[Waiting] = []
    latencies = [0.0] * len(arrivals)
    rows: list[int] = []
    while coming or ready:
        if not ready:
            now = max(now, coming[-1].at)
        while coming and coming[-1].at <= now:
            arrival = coming.pop()
            step_seconds = costs.estimate(DENOISER, ROWS, LATENTS)
            request = Request(arrival.at, arrival.steps, arrival.priority, step_seconds)
            first = request.call
            assert first is not None
            ready.append(Waiting(request, len(arrivals) - len(coming) - 1, first))
        batch = list(policy.next(ready))
        call = batch[0].call
        together = sum(each.call.rows for each in batch)
        now += costs.estimate(call.network, together, call.pixels) + overheads.call
        if call.step:
            rows.append(together)
        for each in batch:
            each.run.done += 1
            following = each.run.call
            if following is None:
                ready.remove(each)
                latencies[each.arrival] = now - each.run.submitted + overheads.request
            else:
                each.call = following
    return Outcome(latencies, now - arrivals[0].at, rows)
