"""The scheduler under load, without a server: the policies' own code on a virtual clock.

    python benchmarks/simulate.py                         every policy at 0.8 of capacity, on a CPU's and a GPU's curve
    python benchmarks/simulate.py --profile PROFILE.json  on what a server measured (it keeps it in the user's cache)
    python benchmarks/simulate.py --load 0.5 0.8 0.95 --patience 2 8 32 --steps 20

A network call takes what the profile says, and nothing else takes any time but `Overheads`. benchmarks/load.py holds
two points of it against the real server.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gesso_backend import policy as policies
from gesso_backend import profile as profiles
from gesso_backend.policy import Ordered, Policy
from gesso_backend.profile import Profile, RowCaps

STEPS = (8, 20, 30, 50)  # the mix: each as likely as the others
ROWS = 2  # of a step: with guidance
LATENTS = 16 * 16  # of a picture
FACTOR = 64  # pixels per latent
PHASES = ("text_encoder", "vae_encoder", "vae_encoder")  # before the steps


@dataclass(frozen=True)
class Arrival:
    at: float
    steps: int
    priority: str = policies.NORMAL


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


@dataclass(eq=False)
class Job:
    """As the policies know it; the simulation counts its calls."""

    submitted: float
    steps: int
    priority: str
    step_seconds: float
    done: int = 0  # of all its calls
    step_rows: int = ROWS
    latent_shape: tuple[int, int] = (1, LATENTS)

    @property
    def steps_left(self) -> int:
        return self.steps - max(0, min(self.done - len(PHASES), self.steps))

    @property
    def call(self) -> Call | None:
        """The next one; None when all have run."""
        if self.done < len(PHASES):
            vae = PHASES[self.done] != "text_encoder"
            return Call(PHASES[self.done], 1 if vae else ROWS, LATENTS * FACTOR if vae else 1)
        if self.steps_left:
            return Call("unet", ROWS, LATENTS)
        return Call("vae_decoder", 1, LATENTS) if self.done == len(PHASES) + self.steps else None


@dataclass(eq=False)
class Task:
    job: Job
    arrival: int
    call: Call


@dataclass
class Outcome:
    """latencies: in the order of the arrivals, seconds. busy: from the first arrival to the last answer."""

    latencies: list[float]
    busy: float
    rows: list[int] = field(default_factory=list)  # of each step

    def row(self) -> dict[str, float]:
        ordered = sorted(self.latencies)
        return {
            "mean": statistics.fmean(ordered),
            "p50": quantile(ordered, 0.50),
            "p99": quantile(ordered, 0.99),
            "max": ordered[-1],
            "per_second": len(ordered) / self.busy,
            "rows_per_step": statistics.fmean(self.rows) if self.rows else 0.0,
        }


def simulate(
    arrivals: Sequence[Arrival],
    policy: Policy,
    profile: Profile,
    overheads: Overheads = NONE,
) -> Outcome:
    """Run the arrivals (in order of time) to their end."""
    now = arrivals[0].at
    coming = list(reversed(arrivals))
    ready: list[Task] = []
    latencies = [0.0] * len(arrivals)
    rows: list[int] = []
    while coming or ready:
        if not ready:
            now = max(now, coming[-1].at)
        while coming and coming[-1].at <= now:
            arrival = coming.pop()
            job = Job(arrival.at, arrival.steps, arrival.priority, profile.estimate("unet", ROWS, LATENTS))
            first = job.call
            assert first is not None
            ready.append(Task(job, len(arrivals) - len(coming) - 1, first))
        batch = list(policy.next(ready))
        call = batch[0].call
        together = sum(task.call.rows for task in batch)
        now += profile.estimate(call.network, together, call.pixels) + overheads.call
        if call.network == "unet":
            rows.append(together)
        for task in batch:
            task.job.done += 1
            following = task.job.call
            if following is None:
                ready.remove(task)
                latencies[task.arrival] = now - task.job.submitted + overheads.request
            else:
                task.call = following
    return Outcome(latencies, now - arrivals[0].at, rows)


def poisson(rate: float, count: int, seed: int, steps: Sequence[int] = STEPS) -> list[Arrival]:
    """rate: requests a second."""
    rng = random.Random(seed)
    at = 0.0
    arrivals = []
    for _ in range(count):
        at += rng.expovariate(rate)
        arrivals.append(Arrival(at, rng.choice(steps)))
    return arrivals


def capacity(profile: Profile, overheads: Overheads = NONE, steps: Sequence[int] = STEPS) -> float:
    """Requests a second, one after another."""

    def seconds(count: int) -> float:
        job, total = Job(0.0, count, policies.NORMAL, 0.0), 0.0
        while (call := job.call) is not None:
            total += profile.estimate(call.network, call.rows, call.pixels) + overheads.call
            job.done += 1
        return total

    return 1 / statistics.fmean(seconds(count) for count in steps)


def paced(profile: Profile, factor: float) -> Profile:
    """The profile of a machine on which every call takes `factor` times as long."""
    return Profile(
        {
            network: {size: {rows: factor * took for rows, took in times.items()} for size, times in sizes.items()}
            for network, sizes in profile.seconds.items()
        }
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# t(rows) of a step, in seconds, where no profile is given: two shapes that differ in what batching buys.
CURVES: Mapping[str, Profile] = {
    "CPU, batching buys nothing": Profile(
        {
            "text_encoder": {1: {2: 0.004}},
            "vae_encoder": {LATENTS * FACTOR: {1: 0.02}},
            "unet": {LATENTS: {2: 0.034, 4: 0.068}},
            "vae_decoder": {LATENTS: {1: 0.04}},
        }
    ),
    "GPU, a row in 16 costs a quarter": Profile(
        {
            "text_encoder": {1: {2: 0.004, 16: 0.008}},
            "vae_encoder": {LATENTS * FACTOR: {1: 0.01, 4: 0.03}},
            "unet": {LATENTS: {2: 0.012, 4: 0.016, 8: 0.024, 16: 0.024}},
            "vae_decoder": {LATENTS: {1: 0.02, 4: 0.06}},
        }
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", type=Path, help="a profile that a server kept")
    parser.add_argument(
        "--load", type=float, nargs="+", default=[0.8], help="arrivals, of what one after another allows"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--patience", type=float, nargs="+", default=[policies.PATIENCE])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    curves = {options.profile.stem: profiles.read(options.profile)} if options.profile else CURVES
    for name, profile in curves.items():
        caps = RowCaps(profile, 0, 0)
        print(f"\n{name}: a step takes at most {caps.cap('unet', LATENTS)} rows, "
              f"{capacity(profile, steps=options.steps):.2f} requests a second one after another\n")  # fmt: skip
        print("| load | policy | mean s | p50 s | p99 s | longest s | rows a step | mean / fifo | p50 | p99 |")
        print("|---" * 10 + "|")
        for load in options.load:
            sweep(profile, caps, load, options)
    return 0


def sweep(profile: Profile, caps: RowCaps, load: float, options: argparse.Namespace) -> None:
    contenders = {
        "fifo": lambda: policies.make("fifo", caps, "unet"),
        **{f"srpt, patience {p:g}": (lambda p=p: Ordered(caps, "unet", p)) for p in options.patience},
        "request-batches": lambda: policies.make("request-batches", caps, "unet"),
    }
    fifo: dict[str, float] = {}
    for name, make in contenders.items():
        rows = [
            simulate(
                poisson(load * capacity(profile, steps=options.steps), options.requests, seed, options.steps),
                make(),
                profile,
            ).row()
            for seed in range(options.seeds)
        ]
        mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
        fifo = fifo or mean
        cells = [f"{mean[key]:.2f}" for key in ("mean", "p50", "p99", "max", "rows_per_step")]
        cells += [f"{mean[key] / fifo[key]:.2f}" for key in ("mean", "p50", "p99")]
        print(f"| {load:g} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
