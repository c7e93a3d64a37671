"""A model's process ends with its Triton; by itself it would stay, with its memory, while a call is in flight."""

from __future__ import annotations

import contextlib
import os
import select
import threading


def end_with_parent() -> None:
    """Leave the process as soon as the one that started it has ended, whatever ended it.

    Not by the kernel's parent-death signal: that is sent when the *thread* ends that started this process.
    """
    with contextlib.suppress(OSError):  # a kernel before 5.3
        watched = os.pidfd_open(os.getppid())
        threading.Thread(target=_leave_after, args=(watched,), name="gesso-parent", daemon=True).start()


def _leave_after(watched: int) -> None:
    ended = select.poll()
    ended.register(watched, select.POLLIN)
    ended.poll()
    os._exit(70)
