"""The scheduler under load, without a server: the policies' own code on a virtual clock.

python -m benchmarks simulate                         every policy at 0.8 of capacity, on a CPU's and a GPU's curve
python -m benchmarks simulate --profile PROFILE.json  on what a server measured (it is in the user's cache)
python -m benchmarks simulate --load 0.5 0.8 0.95 --patience 2 8 32 --steps 20
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import page
from benchmarks.simulate.arrivals import STEPS, capacity, poisson
from benchmarks.simulate.curves import CURVES, costs
from benchmarks.simulate.simulation import DENOISER, LATENTS, simulate
from gesso_backend.serving import measure
from gesso_backend.serving import policy as policies
from gesso_backend.serving.costs import Costs, RowCaps

HEADS = ("load", "policy", "mean s", "p50 s", "p99 s", "longest s", "rows a step", "mean / fifo", "p50", "p99")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", type=Path, help="a profile that a server measured")
    parser.add_argument(
        "--load", type=float, nargs="+", default=[0.8], help="arrivals, of what one after another allows"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--patience", type=float, nargs="+", default=[policies.PATIENCE])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    curves = {options.profile.stem: costs(measure.read(options.profile))} if options.profile else CURVES
    for name, measured in curves.items():
        caps = RowCaps(measured, 0, 0)
        print(f"\n{name}: a step takes at most {caps.cap(DENOISER, LATENTS)} rows, "
              f"{capacity(measured, steps=options.steps):.2f} requests a second one after another\n")  # fmt: skip
        print(page.table(HEADS, ()))
        for load in options.load:
            sweep(measured, caps, load, options)
    return 0


def sweep(measured: Costs, caps: RowCaps, load: float, options: argparse.Namespace) -> None:
    contenders = {
        "fifo": lambda: policies.make("fifo", caps),
        **{f"srpt, patience {p:g}": (lambda p=p: policies.Ordered(caps, p)) for p in options.patience},
        "request-batches": lambda: policies.make("request-batches", caps),
    }
    rate = load * capacity(measured, steps=options.steps)
    fifo: dict[str, float] = {}
    for name, make in contenders.items():
        runs = [
            simulate(poisson(rate, options.requests, seed, options.steps), make(), measured).row()
            for seed in range(options.seeds)
        ]
        mean = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
        fifo = fifo or mean
        cells = [f"{mean[key]:.2f}" for key in ("mean", "p50", "p99", "max", "rows_per_step")]
        cells += [f"{mean[key] / fifo[key]:.2f}" for key in ("mean", "p50", "p99")]
        print(page.row([f"{load:g}", name, *cells]), flush=True)
