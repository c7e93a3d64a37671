"""What the overhead benchmark says of a server's time."""

from __future__ import annotations

import pytest

from benchmarks.overhead import report, samples
from benchmarks.overhead.summary import summary

MS = 10**6
LOOP, POOL, OTHER = 11, 12, 13
STOPWATCH = {
    "calls": [
        {"network": "text_encoder", "from": 0, "until": 5 * MS, "cpu": 5 * MS, "thread": LOOP},
        {"network": "unet", "from": 10 * MS, "until": 30 * MS, "cpu": 18 * MS, "thread": LOOP, "steps": [[7, 1]]},
        {"network": "unet", "from": 31 * MS, "until": 51 * MS, "cpu": 18 * MS, "thread": LOOP, "steps": [[7, 2]]},
        {"network": "unet", "from": 900 * MS, "until": 920 * MS, "cpu": 18 * MS, "thread": LOOP, "steps": [[8, 1]]},
    ],
    "sends": [[7, 1, 32 * MS, 33 * MS], [7, 2, 52 * MS, 53 * MS]],
    "engine_threads": [POOL],
    "threads": {str(LOOP): "gesso-loop", str(OTHER): "gesso-outbox"},
}
BEFORE = {("inpaint", LOOP): 1.0, ("inpaint", POOL): 1.0, ("inpaint", OTHER): 0.5, ("tritonserver", 0): 3.0}
AFTER = {("inpaint", LOOP): 1.043, ("inpaint", POOL): 1.036, ("inpaint", OTHER): 0.503, ("tritonserver", 0): 3.004}
RAW = """thread (0x7F): "gesso-loop";run (/x/gesso_backend/serving/loop.py:9);f (/x/gesso_backend/kinds/denoise.py:3) 6
thread (0x7F): "gesso-loop";run (/x/gesso_backend/serving/loop.py:9);run (/x/onnxruntime/session.py:2) 3
thread (0x80): "gesso-prepare_0";work (/x/concurrent/futures/thread.py:5) 1
"""


def test_an_event_is_timed_from_the_end_of_its_own_step() -> None:
    """Under batching the steps of requests interleave: an event held against another's step would be early or late."""
    received = {(7, 1): 34 * MS, (7, 2): 55 * MS}
    run = summary(STOPWATCH, BEFORE, AFTER, 0, 100 * MS, received)
    assert run["latency"]["n"] == 2
    assert run["latency"]["longest"] == pytest.approx(0.004)
    assert run["to_send"]["p50"] == pytest.approx(0.0015)
    assert run["to_client"]["longest"] == pytest.approx(0.003)
    assert run["between_calls_ms"] == pytest.approx(1.0)


def test_a_loops_time_in_engine_calls_is_the_engines() -> None:
    """The loop's thread computes too: counted whole, Python would seem to take half of the processor."""
    run = summary(STOPWATCH, BEFORE, AFTER, 0, 100 * MS, {(7, 1): 34 * MS})
    assert run["cpu"]["engine"] == pytest.approx(0.041 + 0.036)
    assert run["cpu"]["gesso-loop, outside the engine"] == pytest.approx(0.002)
    assert run["cpu"]["gesso-outbox"] == pytest.approx(0.003)
    assert report.python(run) == pytest.approx(0.005 / 0.086)


def test_samples_belong_to_the_innermost_module_of_gessos() -> None:
    """Time in numpy or the standard library is of the module that called it."""
    assert samples.parse(RAW) == {
        ("gesso-loop", "kinds/denoise"): 6,
        ("gesso-loop", "serving/loop"): 3,
        ("gesso-prepare", "not gesso's"): 1,
    }
