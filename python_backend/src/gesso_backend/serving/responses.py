"""Whole answers, cached when the operator asks for it (`response_cache_mib`)."""

from __future__ import annotations

from collections.abc import Sequence

from gesso_backend.arrays import Arrays, digest
from gesso_backend.model.pictures import DIGESTS
from gesso_backend.serving.cache import Cache
from gesso_backend.serving.events import Event


class Responses:
    """The `image` events of requests, by everything that was sent. From any thread.

    Only of requests that say their seed: another one asks for something new. Those that follow previews are run.
    """

    def __init__(self, max_bytes: int) -> None:
        self._cache: Cache[tuple[Event, ...]] = Cache(max_bytes)
        self._off = max_bytes == 0

    def get(self, inputs: Arrays) -> tuple[Event, ...] | None:
        return None if self._off or not _repeatable(inputs) else self._cache.get(_key(inputs))

    def put(self, inputs: Arrays, images: Sequence[Event]) -> None:
        if not self._off and _repeatable(inputs):
            self._cache.put(_key(inputs), tuple(images), sum(event.image.nbytes for event in images))


def _key(inputs: Arrays) -> bytes:
    """Of what was asked. The digests say it a second time, so whoever leaves them out asks for the same."""
    return digest({name: array for name, array in inputs.items() if name not in DIGESTS})


def _repeatable(inputs: Arrays) -> bool:
    return "seed" in inputs and not ("preview_every" in inputs and inputs["preview_every"].any())
