"""The pictures of a finished request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image as PILImage

from gesso_client.events import Event, Image


@dataclass(frozen=True)
class Result:
    """One or more pictures, ordered by index; `image`, `seed` and `report` are the first one's."""

    pictures: tuple[Image, ...]

    @property
    def image(self) -> PILImage.Image:
        return self.pictures[0].image

    @property
    def images(self) -> tuple[PILImage.Image, ...]:
        return tuple(picture.image for picture in self.pictures)

    @property
    def seed(self) -> int:
        return self.pictures[0].seed

    @property
    def report(self) -> dict[str, Any]:
        return self.pictures[0].report

    @property
    def changed_outside_mask(self) -> int | None:
        """Of all pictures together, as counted by this client: 0; None: there was no mask."""
        counts = [picture.changed_outside_mask for picture in self.pictures]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def counted_by(self) -> Literal["client"] | None:
        return self.pictures[0].counted_by

    @classmethod
    def of(cls, events: Iterable[Event]) -> Result:
        pictures = (event for event in events if isinstance(event, Image))
        return cls(tuple(sorted(pictures, key=lambda picture: picture.index)))
