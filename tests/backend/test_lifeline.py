"""Nothing outlives the process that started it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from backend.fake_triton import alive
from backend.fakes import until

# Starts a group as gesso-serve starts Triton: a leader, a child that is stopped, and one whose parent has ended. Says
# who they are and waits.
PARENT = """
import subprocess, time
from gesso_backend.host.lifeline import Lifeline

line = Lifeline()
script = "sleep 600 & echo $!; kill -STOP $!; (sleep 600 & echo $!); echo $$; exec sleep 600"
group = subprocess.Popen(
    ["sh", "-c", script], start_new_session=True, pass_fds=(line.inherited,), preexec_fn=line.tie
)
ONE_MORE
time.sleep(600)
"""


@pytest.mark.parametrize("killed_first", [False, True], ids=["its leader alive", "its leader killed before"])
def test_a_killed_parent_takes_the_whole_group_with_it(killed_first: bool) -> None:
    """Guards against orphans that keep ports and memory: a model's process does not notice that Triton has gone while a
    request is in flight, and what is stopped notices nothing."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("ONE_MORE", "time.sleep(0.5); group.kill()" if killed_first else "")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        pids = [int(parent.stdout.readline()) for _ in range(3)]
        if killed_first:
            until(lambda: not alive(pids[2]))
        assert alive(pids[0])
        assert alive(pids[1])
        parent.send_signal(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in pids))
