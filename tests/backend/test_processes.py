"""What Linux says of processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gesso_backend.triton import processes


@pytest.mark.parametrize(("letter", "stopped"), [("T", True), ("t", False), ("D", False), ("S", False), ("Z", False)])
def test_only_a_stop_by_a_signal_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: str, stopped: bool
) -> None:
    """Guards whoever debugs a model, and a slow disk; and a name is anything, brackets and blanks too."""
    monkeypatch.setattr(processes, "PROC", tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (a) T (b) {letter} 1 7 7 0 -1 4194560 0")
    assert processes.is_stopped(7) is stopped


def test_a_process_is_known_by_when_it_started() -> None:
    """Guards against a process that got a dead one's number."""
    assert processes.started(os.getpid()) == processes.started(os.getpid())
    assert processes.started(os.getpid()) != processes.started(1)
    assert processes.started(2**22 + 1) == ""
    assert time.time() - 10**5 < processes.started_at(os.getpid()) <= time.time()
