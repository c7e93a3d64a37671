"""How long a stop may take, from gesso-serve's own constants: what orchestrators have to wait before they kill."""

from __future__ import annotations

from gesso_backend.host import supervisor
from gesso_backend.settings import Settings


def drain_takes() -> float:
    """Seconds from SIGTERM to the end, at worst: the drain, Triton's exit, and the last of its log."""
    triton = supervisor.EXIT_SECONDS + supervisor.LAST_WORDS_SECONDS
    drain = Settings.drain_seconds + supervisor.LAST_WORDS_SECONDS + supervisor.FLUSH_SECONDS
    return supervisor.WATCH_SECONDS + drain + triton + supervisor.LAST_WORDS_SECONDS


def compose_seconds(period: str) -> float:
    """Of compose's durations only whole seconds are used here."""
    return float(period.removesuffix("s"))
