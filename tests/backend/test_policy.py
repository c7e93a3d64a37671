"""Who runs next: the order of requests, who shares a batch, and that nobody waits for ever."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso_backend.kinds.kind import Work
from gesso_backend.serving import policy as policies
from gesso_backend.serving.policy import Ordered, Policy, RequestBatches
from gesso_backend.serving.priority import CLASS_SECONDS, NORMAL
from gesso_backend.settings import RULES

STEP = 1.0  # seconds, of every step here


@dataclass(eq=False)
class Run:
    work: Work
    submitted: float = 0.0
    calls_left: int = 10
    priority: str = NORMAL
    call_seconds: float = STEP


@dataclass(frozen=True)
class Call:
    network: str = "unet"
    rows: int = 2
    pixels: int = 64

    @property
    def step(self) -> bool:
        return self.network == "unet"

    @property
    def key(self) -> tuple[str, int]:
        return self.network, self.pixels


@dataclass(eq=False)
class Branch:
    arrival: int
    run: Run
    call: Call


class Fixed:
    """The same cap for all; `lean` while not crowded."""

    def __init__(self, rows: int, lean: int = 0) -> None:
        self._rows, self._lean = rows, lean or rows

    def cap(self, network: str, pixels: int, crowded: bool = True) -> int:
        return self._rows if crowded else self._lean


def branch(arrival: int, network: str = "unet", rows: int = 2, size: int = 8, **run: object) -> Branch:
    """A branch of a run of its own, which came at its number of seconds unless it is said."""
    made = Run(Work("unet", 10, rows, (size, size)), **{"submitted": float(arrival), **run})  # type: ignore[arg-type]
    return Branch(arrival, made, Call(network, rows, size * size))


def srpt(rows: int = 8, patience: float = 10.0) -> Ordered:
    return Ordered(Fixed(rows), patience)


def fifo(rows: int = 8) -> Ordered:
    return Ordered(Fixed(rows), 0.0)


def arrivals(batch: object) -> list[int]:
    return [branch.arrival for branch in batch]  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", [srpt(), fifo(), RequestBatches(8)])
def test_nothing_ready_is_no_batch(policy: Policy) -> None:
    """Guards the idle loop."""
    assert policy.next([]) == []


def test_calls_of_one_network_and_shape_share_a_batch() -> None:
    """Guards against batching by size alone, or not at all."""
    ready = [branch(0), branch(1, size=16), branch(2), branch(4, rows=1)]
    assert arrivals(fifo().next(ready)) == [0, 2, 4]


def test_the_row_cap_counts_rows_not_requests() -> None:
    """Guards the memory bound: guided requests have two rows."""
    ready = [branch(0), branch(1, rows=1), branch(2), branch(3), branch(4)]
    assert arrivals(fifo(8).next(ready)) == [0, 1, 2, 3]


def test_batches_are_lean_until_more_wait_than_fit() -> None:
    """Guards latency at low load (short calls) and throughput at high load (full ones)."""
    policy = Ordered(Fixed(8, lean=4), 0.0)
    ready = [branch(number) for number in range(4)]
    assert arrivals(policy.next(ready)) == [0, 1]
    assert arrivals(policy.next([*ready, branch(4)])) == [0, 1, 2, 3]


def test_nobody_overtakes_within_a_batch_to_fill_the_cap() -> None:
    """Guards the order: a small late request must not slip in before a large early one."""
    ready = [branch(0, rows=6), branch(1, rows=4), branch(2, rows=2)]
    assert arrivals(fifo(8).next(ready)) == [0]


def test_a_call_above_the_cap_still_runs_alone() -> None:
    """Guards against a request that no batch would ever take."""
    assert arrivals(fifo(1).next([branch(0), branch(1)])) == [0]


def test_first_come_first_served_whatever_the_order_of_the_list() -> None:
    """Guards against the loop's list, which is reshuffled by every step, deciding who goes first."""
    assert arrivals(fifo(4).next([branch(5), branch(1), branch(3)])) == [1, 3]


def test_the_shortest_remaining_work_goes_first() -> None:
    """Guards the policy itself: what counts is what is left, not what was asked for."""
    ready = [branch(0, calls_left=50), branch(1, calls_left=8), branch(2, calls_left=30)]
    assert arrivals(srpt(2).next(ready)) == [1]
    ready[2].run.calls_left = 3
    assert arrivals(srpt(2).next(ready)) == [2]


def test_larger_pictures_are_more_work() -> None:
    """Guards against counting steps where seconds are meant."""
    ready = [branch(0, calls_left=10, size=16, call_seconds=8.0), branch(1, calls_left=20)]
    assert arrivals(srpt(2).next(ready)) == [1]


def test_a_long_request_is_not_overtaken_for_ever() -> None:
    """Guards against starvation: a stream of short requests, which alone would keep the server busy, must let a long
    one through by the time it is due."""
    policy = srpt(2, patience=4.0)
    long = branch(0, calls_left=20)
    now, arrived, ready = 0.0, 0, [long]
    while long.run.calls_left:
        while arrived < now:  # one a second, of one second: they alone are all the server can do
            arrived += 1
            ready.append(branch(arrived, calls_left=1))
        (next_one,) = policy.next(ready)
        next_one.run.calls_left -= 1
        now += STEP
        if not next_one.run.calls_left:
            ready.remove(next_one)
        assert now < 4.0 * 20 + 2 * 20 + 5
    assert now > 20


@pytest.mark.parametrize("classes", [("interactive", "normal"), ("normal", "background")])
def test_a_class_goes_before_the_next_one(classes: tuple[str, str]) -> None:
    """Guards `priority`: however short a background request is, an interactive one goes first."""
    first, second = classes
    ready = [branch(0, calls_left=1, priority=second), branch(100, calls_left=12, priority=first)]
    assert arrivals(srpt(2).next(ready)) == [100]


def test_even_a_background_request_has_its_turn() -> None:
    """Guards "nothing waits for ever" across classes: after its head start is over, it is the oldest that goes."""
    ready = [branch(0, calls_left=1, priority="background"), branch(4000, calls_left=12, priority="interactive")]
    assert arrivals(srpt(2).next(ready)) == [0]


def test_at_most_one_other_call_runs_between_two_steps() -> None:
    """Guards those who run: a stream of arrivals, each with three calls before its first step, must not stop them. It
    once did here."""
    policy = fifo(8)
    running = branch(0)
    served = []
    for arrival in range(1, 21):
        newcomer = branch(arrival, ("text_encoder", "vae_encoder")[arrival % 2])
        served += arrivals(policy.next([running, newcomer]))
    assert served.count(0) == 10


def test_a_newcomer_is_encoded_while_the_next_step_has_room_for_it() -> None:
    """Guards the batch's fill: requests behind those who run are made ready before the batch is empty."""
    ready = [branch(0), branch(1, "text_encoder"), branch(2, "text_encoder")]
    assert arrivals(fifo(8).next(ready)) == [1, 2]


def test_nobody_is_encoded_for_a_full_batch() -> None:
    """Guards time and memory: work for a request that cannot join yet only holds up those who run."""
    ready = [branch(0), branch(1), branch(2, "text_encoder")]
    assert arrivals(fifo(4).next(ready)) == [0, 1]


def test_a_finished_request_is_decoded_before_the_next_step() -> None:
    """Guards latency: a picture that only has to be decoded does not wait for its neighbours to finish."""
    done = branch(3, "vae_decoder", rows=1, calls_left=0)
    assert arrivals(srpt().next([branch(0, calls_left=1), branch(1), done])) == [3]


def test_request_batches_start_and_end_together() -> None:
    """Guards the comparison: the others wait until all of a batch are decoded, which happens at its end."""
    policy = RequestBatches(2)
    first, second, third = branch(0, calls_left=1), branch(1, calls_left=2), branch(2, calls_left=1)
    assert arrivals(policy.next([first, second, third])) == [0, 1]
    first.run.calls_left, second.run.calls_left, first.call = 0, 1, Call("vae_decoder", 1)
    assert arrivals(policy.next([first, second, third])) == [1]
    second.run.calls_left, second.call = 0, Call("vae_decoder", 1)
    assert arrivals(policy.next([first, second, third])) == [0, 1]
    assert arrivals(policy.next([third])) == [2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["text_encoder", "unet", "vae_encoder", "vae_decoder"]),
            st.integers(1, 3),
            st.sampled_from([8, 16]),
            st.integers(0, 50),
            st.sampled_from(sorted(CLASS_SECONDS)),
        ),
        max_size=30,
    ),
    st.integers(1, 8),
    st.sampled_from(sorted(RULES["policy"].choices())),  # type: ignore[misc],
)
def test_everything_ready_runs_within_as_many_rounds_as_there_are_calls(
    calls: list[tuple[str, int, int, int, str]], cap: int, name: str
) -> None:
    """Guards progress of any mix under any policy: no call is lost, run twice, or mixed with another shape."""
    policy = policies.make(name, Fixed(cap))
    ready = [
        branch(i, network, rows, size, calls_left=0 if network == "vae_decoder" else max(steps, 1), priority=priority)
        for i, (network, rows, size, steps, priority) in enumerate(calls)
    ]
    rounds = 0
    while batch := policy.next(ready):
        assert len({branch.call.key for branch in batch}) == 1
        assert sum(branch.call.rows for branch in batch) <= cap or len(batch) == 1 or name == "request-batches"
        assert len(set(batch)) == len(batch)
        ready = [branch for branch in ready if branch not in batch]
        rounds += 1
        assert rounds <= len(calls)
    assert not ready
