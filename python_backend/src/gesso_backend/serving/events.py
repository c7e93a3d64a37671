"""What travels back to the client: one flat record per response, named as the wire's outputs, and the way it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from gesso_backend.arrays import Pixels
from gesso_backend.errors import RequestError


def _no_picture() -> Pixels:
    return np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Event:
    """One intermediate response. Filled by `Run`; turned into tensors by the Triton model."""

    event: Literal["progress", "preview", "image"]
    step: int
    num_steps: int
    index: int
    seed: int
    image: Pixels = field(default_factory=_no_picture)  # [H, W, 3]; [0, 0, 3] on progress
    report: str = ""  # JSON, on `image`


class Channel(Protocol):
    """The way back to one client."""

    only_image: bool  # whether progress and previews are not for it

    def send(self, event: Event) -> None:
        """Deliver an event."""

    def close(self, error: RequestError | None) -> None:
        """Deliver the one final reply: the end, or what went wrong."""

    def cancelled(self) -> bool:
        """Whether the client has gone or cancelled."""
