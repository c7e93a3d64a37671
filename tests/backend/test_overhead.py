"""What benchmarks/overhead.py says of a server's time, and that no picture file is read or written in a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import overhead_profile
import overhead_report

import overhead

MS = 10**6
LOOP, POOL, OTHER = 11, 12, 13
SAID = {
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
RAW = """thread (0x7F): "gesso-loop";run (/x/gesso_backend/serving/loop.py:9);f (/x/gesso_backend/kinds/diffusion/denoise.py:3) 6
thread (0x7F): "gesso-loop";run (/x/gesso_backend/serving/loop.py:9);run (/x/onnxruntime/session.py:2) 3
thread (0x80): "gesso-prepare_0";work (/x/concurrent/futures/thread.py:5) 1
"""


def test_an_event_is_timed_from_the_end_of_its_own_step() -> None:
    """Under batching the steps of requests interleave: an event held against another's step would be early or late."""
    received = {(7, 1): 34 * MS, (7, 2): 55 * MS}
    run = overhead.summary(SAID, BEFORE, AFTER, 0, 100 * MS, received)
    assert run["latency"]["n"] == 2
    assert run["latency"]["longest"] == pytest.approx(0.004)
    assert run["to_send"]["p50"] == pytest.approx(0.0015)
    assert run["to_client"]["longest"] == pytest.approx(0.003)
    assert run["between_calls_ms"] == pytest.approx(1.0)


def test_a_loops_time_in_engine_calls_is_the_engines() -> None:
    """The loop's thread computes too: counted whole, Python would seem to take half of the processor."""
    run = overhead.summary(SAID, BEFORE, AFTER, 0, 100 * MS, {(7, 1): 34 * MS})
    assert run["cpu"]["engine"] == pytest.approx(0.041 + 0.036)
    assert run["cpu"]["gesso-loop, outside the engine"] == pytest.approx(0.002)
    assert run["cpu"]["gesso-outbox"] == pytest.approx(0.003)
    assert overhead_report.python(run) == pytest.approx(0.005 / 0.086)


def test_samples_belong_to_the_innermost_module_of_gessos() -> None:
    """Time in numpy or the standard library is of the module that called it."""
    assert overhead_profile.parse(RAW) == {
        ("gesso-loop", "denoise"): 6,
        ("gesso-loop", "loop"): 3,
        ("gesso-prepare", "not gesso's"): 1,
    }


def test_a_server_loads_no_picture_format() -> None:
    """Encoding PNG costs tens of milliseconds a picture: a server that does it in its loop stands still meanwhile.

    Pillow is there to resize arrays; its formats are plugins, which it imports when a file is opened or saved.
    """
    program = (
        "import sys, gesso_backend.pixels.canvas, gesso_backend.kinds.diffusion.finish, gesso_backend.serving.service, gesso_backend.serving.outbox\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "Image.fromarray(np.zeros((8, 8, 3), np.uint8)).resize((16, 16))\n"
        "print([n for n in sys.modules if n.startswith('PIL.') and n.endswith('Plugin') or n in ('cv2', 'imageio')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
