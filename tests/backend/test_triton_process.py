"""What the models of one Triton know of its process: its memory, and a secret of its start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gesso_backend.triton import secret
from gesso_backend.triton.unread import Unread


def test_what_triton_has_grown_by_is_what_nobody_has_read(tmp_path: Path) -> None:
    """Guards the bound on it against what Triton needs itself, and against what it shares."""
    status = tmp_path / str(os.getppid()) / "status"
    status.parent.mkdir()

    def grow(kib: int) -> None:
        status.write_text(f"Name:\ttritonserver\nVmRSS:\t{kib + 9999} kB\nRssAnon:\t  {kib} kB\nRssShmem:\t7777 kB\n")

    grow(5_000_000)
    unread = Unread(tmp_path)
    assert unread() == 0
    grow(5_000_300)
    assert unread() == 300 * 1024
    grow(4_000_000)
    assert unread() == 0
    status.unlink()
    assert unread() == 0


def test_the_real_process_can_be_asked() -> None:
    assert Unread()() == 0


def test_two_children_of_one_process_have_one_secret_and_others_have_not() -> None:
    """Guards what `inpaint_once` tells `inpaint`: both know the secret without being told, another Triton's do not."""
    child = [sys.executable, "-c", "from gesso_backend.triton import secret; print(secret.shared())"]
    first, second = (subprocess.run(child, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    assert len(first.strip()) == 64
    assert first.strip() != secret.shared()
