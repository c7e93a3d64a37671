"""The load simulator: that what it simulates is the policies' own code, and that it adds up."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.simulate.arrivals import capacity, poisson
from benchmarks.simulate.curves import costs
from benchmarks.simulate.simulation import DENOISER, FACTOR, LATENTS, Arrival, Overheads, simulate
from gesso_backend.serving import policy as policies
from gesso_backend.serving.costs import RowCaps

# A step of one request takes a second, and so does one of two; the rest takes nothing.
FLAT = costs(
    {
        "text_encoder": {1: {2: 0.0}},
        "vae_encoder": {LATENTS * FACTOR: {1: 0.0}},
        DENOISER: {LATENTS: {2: 1.0, 4: 1.0}},
        "vae_decoder": {LATENTS: {1: 0.0}},
    }
)
ONE_AT_A_TIME = RowCaps(FLAT, 2, 1)


def run(arrivals: list[Arrival], policy: str, caps: RowCaps = ONE_AT_A_TIME) -> list[float]:
    return simulate(arrivals, policies.make(policy, caps), FLAT).latencies


def test_one_request_takes_its_own_time() -> None:
    """Guards the clock."""
    assert run([Arrival(5.0, 8)], "fifo") == [8.0]
    assert simulate([Arrival(0.0, 8)], policies.make("fifo", ONE_AT_A_TIME), FLAT, Overheads(0.5, 0.25)).latencies == [
        8.0 + 0.5 + 0.25 * (3 + 8 + 1)
    ]


def test_fifo_is_first_come_first_served() -> None:
    """Guards the baseline: queueing as it is done by hand."""
    assert run([Arrival(0.0, 5), Arrival(1.0, 2), Arrival(9.0, 1)], "fifo") == [5.0, 6.0, 1.0]


def test_the_shorter_one_overtakes() -> None:
    """Guards that it is the serving policy that is simulated: the running one is stopped between two steps."""
    assert run([Arrival(0.0, 5), Arrival(1.0, 2)], "srpt") == [7.0, 2.0]


def test_a_batch_is_shared() -> None:
    """Guards step-level batching in the simulation. The second joins two steps after it came, for between two steps
    only one of its three encodings runs."""
    assert run([Arrival(0.0, 5), Arrival(1.0, 5)], "fifo", RowCaps(FLAT, 0, 1)) == [5.0, 7.0]


def test_the_simulated_queue_is_the_one_of_the_textbook() -> None:
    """Guards the whole: M/D/1 has a mean wait of load / (2 (1 - load)) services (Pollaczek and Khinchine)."""
    rate = 0.7 * capacity(FLAT, steps=(10,))
    waits = [statistics.fmean(run(poisson(rate, 4000, seed, (10,)), "fifo")) / 10 - 1 for seed in range(3)]
    assert statistics.fmean(waits) == pytest.approx(0.7 / (2 * 0.3), rel=0.1)


def test_shortest_first_beats_first_come_on_a_mix() -> None:
    """Guards the reason for the default policy, where batching buys nothing."""
    arrivals = poisson(0.8 * capacity(FLAT), 600, 1)
    fifo, srpt = (statistics.fmean(run(arrivals, name)) for name in ("fifo", "srpt"))
    assert srpt < 0.9 * fifo
