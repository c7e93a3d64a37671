"""Which process something belongs to: connections and threads do not go along when it forks."""

from __future__ import annotations

import os

from gesso_client.errors import ConnectionFailed


class Process:
    """The one that this was made in."""

    def __init__(self) -> None:
        self._id = os.getpid()

    def is_here(self) -> bool:
        return os.getpid() == self._id

    def check(self) -> None:
        """Raises ConnectionFailed in a fork of it."""
        if not self.is_here():
            raise ConnectionFailed("it was made before this process was forked; make a client in each process")
