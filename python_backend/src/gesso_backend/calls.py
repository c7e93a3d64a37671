"""What the life of a picture asks for: calls of networks, which somebody else runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Call:
    """One network, on some rows (the first axis of every input)."""

    network: str
    inputs: Arrays
    content: bytes | None = None  # a digest of the inputs, where the answer is worth keeping

    @classmethod
    def kept(cls, network: str, inputs: Arrays) -> Call:
        """One whose answer is worth keeping. The inputs are read: for small ones."""
        return cls(network, inputs, digest(inputs))

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def pixels(self) -> int:
        """How large a picture (or its latents) the network sees: the last two axes of a four-axis input, else 1."""
        return max((array.shape[2] * array.shape[3] for array in self.inputs.values() if array.ndim == 4), default=1)

    @property
    def key(self) -> tuple[object, ...]:
        """Calls with equal keys can run as one batch: same network, same shapes beyond the row axis."""
        return (self.network, *((name, array.shape[1:]) for name, array in sorted(self.inputs.items())))


def digest(arrays: Arrays) -> bytes:
    """Of names, types, shapes and contents: equal for equal arrays and, but for a broken hash, no others."""
    blake = hashlib.blake2b(digest_size=32)
    for name in sorted(arrays):
        array: np.ndarray[Any, Any] = arrays[name]
        blake.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if array.dtype == np.object_:  # texts; the length keeps two apart that read the same in a row
            for item in array.ravel():
                blake.update(f"{len(item)}\n".encode() + item)
        else:
            blake.update(np.ascontiguousarray(array).data)
    return blake.digest()
