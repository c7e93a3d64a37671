"""A process group that cannot outlive the process that started it."""

from __future__ import annotations

import fcntl
import os
import signal


class Lifeline:
    """A pipe whose writing end only this process holds. When it is gone, however it ended, the kernel sends SIGKILL to
    the whole group at the other end.

    A parent-death signal would reach Triton alone, and its models' processes are started from threads that end. Here
    nothing in the group has to act, so what is stopped, stuck in a network or still starting ends as well.
    """

    def __init__(self) -> None:
        self.inherited, self._ours = os.pipe()

    def tie(self) -> None:
        """In the new process, before it becomes its program, with `inherited` to be kept open: it leads its group."""
        fcntl.fcntl(self.inherited, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self.inherited, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(self.inherited, fcntl.F_SETFL, fcntl.fcntl(self.inherited, fcntl.F_GETFL) | os.O_ASYNC)

    def cut(self) -> None:
        """End the group, if there still is one."""
        os.close(self._ours)
        os.close(self.inherited)
