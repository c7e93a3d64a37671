"""Which calls run together, and who is next."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.fakes import fake_bundle
from gesso_backend.batch import Batch, FifoPolicy, Task
from gesso_backend.calls import Call
from gesso_backend.settings import Settings

CAPS = {"text_encoder": 8, "unet": 8, "vae_encoder": 1, "vae_decoder": 1}


def task(arrival: int, network: str = "unet", rows: int = 2, size: int = 8) -> Task:
    call = Call(network, {"sample": np.full((rows, 4, size, size), arrival, np.float32)})
    return Task(cast("Any", None), cast("Any", None), 0, arrival, call)


def arrivals(batch: Batch | None) -> list[int]:
    return [] if batch is None else [task.arrival for task in batch.tasks]


def test_nothing_ready_is_no_batch() -> None:
    """Guards the idle loop."""
    assert FifoPolicy(CAPS).next([]) is None


def test_calls_of_one_network_and_shape_share_a_batch() -> None:
    """Guards against batching by size alone, or not at all."""
    ready = [task(0), task(1, size=16), task(2), task(3, "vae_decoder"), task(4, rows=1)]
    assert arrivals(FifoPolicy(CAPS).next(ready)) == [0, 2, 4]


def test_the_row_cap_counts_rows_not_requests() -> None:
    """Guards the memory bound: guided requests have two rows."""
    ready = [task(0, rows=2), task(1, rows=1), task(2, rows=2), task(3, rows=2), task(4, rows=2)]
    batch = FifoPolicy(CAPS).next(ready)
    assert batch is not None
    assert (arrivals(batch), batch.rows) == ([0, 1, 2, 3], 7)


def test_nobody_overtakes_within_a_group_to_fill_the_cap() -> None:
    """Guards first come, first served: a small late request must not slip in before a large early one."""
    ready = [task(0, rows=6), task(1, rows=4), task(2, rows=2)]
    assert arrivals(FifoPolicy(CAPS).next(ready)) == [0]


def test_a_call_above_the_cap_still_runs_alone() -> None:
    """Guards against a request that no batch would ever take."""
    policy = FifoPolicy({**CAPS, "unet": 1})
    assert arrivals(policy.next([task(0, rows=2), task(1, rows=2)])) == [0]


def test_order_is_by_arrival_whatever_the_order_of_the_list() -> None:
    """Guards against the loop's list, which is reshuffled by every step, deciding who goes first."""
    assert arrivals(FifoPolicy({**CAPS, "unet": 4}).next([task(5), task(1), task(3)])) == [1, 3]


def test_groups_take_turns() -> None:
    """Guards against one shape or phase keeping the engine while another waits."""
    policy = FifoPolicy(CAPS)
    ready = [task(0), task(1, size=16), task(2, "vae_decoder")]
    turns = [arrivals(policy.next(ready))[0] for _ in range(6)]
    assert turns == [0, 1, 2, 0, 1, 2]


def test_newcomers_do_not_hold_up_those_who_run() -> None:
    """Guards a starvation once here: every request's text and picture encoding went before all denoising, so a steady
    stream of arrivals stopped it."""
    policy = FifoPolicy(CAPS)
    running = task(0)
    served = []
    for arrival in range(1, 21):
        phase = ("text_encoder", "vae_encoder")[arrival % 2]
        served += arrivals(policy.next([running, task(arrival, phase)]))
    assert served.count(0) >= 9


@given(
    st.lists(st.tuples(st.sampled_from(sorted(CAPS)), st.integers(1, 3), st.sampled_from([8, 16])), max_size=30),
    st.integers(1, 8),
)
def test_everything_ready_runs_within_as_many_rounds_as_there_are_calls(
    calls: list[tuple[str, int, int]], cap: int
) -> None:
    """Guards progress of any mix: no call is lost, run twice, or mixed with another shape."""
    policy = FifoPolicy(dict.fromkeys(CAPS, cap))
    ready = [task(i, network, rows, size) for i, (network, rows, size) in enumerate(calls)]
    rounds = 0
    while (batch := policy.next(ready)) is not None:
        assert len({task.call.key for task in batch.tasks}) == 1
        assert batch.rows <= cap or len(batch.tasks) == 1
        ready = [task for task in ready if task not in batch.tasks]
        rounds += 1
        assert rounds <= len(calls)
    assert not ready


def test_a_batch_gives_each_call_its_own_rows_back() -> None:
    """Guards the worst bug of its kind in the field: every request of a batch getting the first one's image."""
    batch = Batch([task(7, rows=2), task(8, rows=1), task(9, rows=3)])
    inputs = batch.inputs()
    assert inputs["sample"][:, 0, 0, 0].tolist() == [7, 7, 8, 9, 9, 9]
    answers = batch.split({"noise_pred": inputs["sample"] * 10})
    assert [answer["noise_pred"][:, 0, 0, 0].tolist() for answer in answers] == [[70, 70], [80], [90, 90, 90]]


def test_a_call_alone_is_not_copied() -> None:
    """Guards the plain case's speed: latents go to the engine as they are."""
    alone = task(0)
    assert Batch([alone]).inputs() is alone.call.inputs


@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_the_settings_caps_reach_every_network(network: str) -> None:
    """Guards against a network without a cap, which would be a KeyError in the loop: the end of the server."""
    policy = FifoPolicy.of(Settings(max_rows=3, max_vae_rows=2), fake_bundle())
    batch = policy.next([task(i, network, rows=1) for i in range(5)])
    assert batch is not None
    assert batch.rows == (2 if network.startswith("vae") else 3)
