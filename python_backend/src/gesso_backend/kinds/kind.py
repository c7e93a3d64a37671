"""The contract of a kind of model: what it makes of a request, and the life of that request as calls of networks.

Serving knows nothing else of it. A kind is found by an entry point of the group `gesso_backend.kinds` (see `plugins`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from gesso_backend.arrays import Arrays, Pixels
from gesso_backend.call import Call
from gesso_backend.model.bundle import Bundle


@dataclass(frozen=True)
class Progress:
    """A step is done. step counts from 1 to num_steps."""

    step: int
    num_steps: int
    index: int  # which of the request's pictures


@dataclass(frozen=True)
class Preview:
    """A picture as it stands after a step, as the kind has it; `Kind.preview` makes it the client's."""

    step: int
    num_steps: int
    index: int
    pixels: Pixels


@dataclass(frozen=True)
class Work:
    """What a request still costs, as far as a policy may know."""

    network: str  # whose calls are its steps
    calls: int  # of it, for all its pictures
    rows: int  # of each of them
    shape: tuple[int, int]  # (h, w) of what that network sees
    pictures: int = 1  # that its calls make
    picture_bytes: int = 0  # of all the pictures that it sends
    preview_bytes: int = 0  # of all the previews that it may send

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]


# Yields calls, and is sent their answers; progress and previews in between. One that returns generators starts them, in
# the order of the pictures they paint; one that returns pixels has painted one.
Life: TypeAlias = Generator[Call | Progress | Preview, Arrays, Pixels | Sequence["Life"]]


class Prepared(Protocol):
    """A request made ready for the networks, as far as serving has to know it."""

    @property
    def num_steps(self) -> int:
        """That each of its pictures takes."""

    def seed_of(self, index: int) -> int:
        """The seed of picture `index`."""


R = TypeVar("R")  # the kind's own request
P = TypeVar("P", bound=Prepared)


class Kind(ABC, Generic[R, P]):
    """One opened model of a kind. Without state of requests: that is in what it returns."""

    bundle_type: ClassVar[type[Bundle]]
    own_parameters: ClassVar[tuple[str, ...]] = ()  # of the server's own (model.parameters.OWN), those it takes

    bundle: Bundle

    @classmethod
    def check(cls, bundle: Any) -> None:
        """Hold a bundle of this kind against what it serves. Raises BundleError naming the key."""

    @classmethod
    def check_files(cls, folder: Path, bundle: Any) -> None:
        """Look into the files that the kind itself reads, once they have their hashes. Raises BundleError."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, bundle: Any) -> Kind[R, P]:
        """Open what the kind itself needs of a bundle; the engines are not its own."""

    @abstractmethod
    def parse(self, inputs: Arrays) -> R:
        """The wire's tensors as a request. Raises InvalidRequest or NotFound naming the field."""

    @abstractmethod
    def prepare(self, request: R) -> P:
        """What can be worked out before any network runs; off the loop's thread. Raises InvalidRequest."""

    @abstractmethod
    def life(self, prepared: P) -> Life:
        """Everything that happens to a request, from the first call to its pictures."""

    @abstractmethod
    def work(self, prepared: P) -> Work:
        """What a request costs that has not begun."""

    @abstractmethod
    def paint(self, prepared: P, pixels: Pixels) -> Pixels:
        """What a life returned as the client's picture [H, W, 3]; off the loop's thread."""

    @abstractmethod
    def preview(self, prepared: P, pixels: Pixels) -> Pixels:
        """The pixels of a `Preview` as a picture [h, w, 3] no larger than the client's; off the loop's thread."""

    @abstractmethod
    def report(self, prepared: P, output: Pixels, index: int) -> dict[str, Any]:
        """What the report of a picture says besides serving's own; `warnings` among it."""
