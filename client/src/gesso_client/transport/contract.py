"""The seam between the clients and the network: what a transport must do, and the names both sides use."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Protocol

from gesso_client.events import Response
from gesso_client.request import Request

ONCE = "_once"  # a model's twin that sends one response, the final one
PARAMETER = "gesso"  # of the Triton model's config; its string is the JSON of a ModelInfo
# The server answers DEADLINE itself; a transport gives up this much later, when no answer came at all.
GRACE_S = 5.0
METADATA_TIMEOUT_S = 10.0  # a question about models is answered at once or not at all


class Call(Protocol):
    """One request on the wire. Iterated once; every error it raises is a GessoError."""

    def __iter__(self) -> Iterator[Response]: ...

    def cancel(self) -> None:
        """End it, from any thread: the iteration raises Cancelled. Nothing happens when it has ended already."""


class Transport(Protocol):
    """Thread-safe. Every error is a GessoError."""

    def run(self, request: Request) -> Call: ...

    def model_names(self) -> tuple[str, ...]:
        """The Triton models that are ready, gesso's or not."""

    def describe(self, model: str) -> str | None:
        """The string of the model's `gesso` parameter, None when it has none. Raises NotFound."""

    def close(self) -> None:
        """End every call in flight."""


class AsyncTransport(Protocol):
    """The same for asyncio. Closing the generator of `run`, or cancelling its task, ends the call."""

    def run(self, request: Request) -> AsyncGenerator[Response, None]: ...

    async def model_names(self) -> tuple[str, ...]: ...

    async def describe(self, model: str) -> str | None: ...

    async def close(self) -> None: ...


def without_twins(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out the one-response twin of each model."""
    return tuple(name for name in names if not (name.endswith(ONCE) and name.removesuffix(ONCE) in names))
