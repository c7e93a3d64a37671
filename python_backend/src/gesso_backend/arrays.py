"""Arrays as every layer calls them, and the digest that keys caches by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

REPAINT = 128  # diffusers binarises mask / 255 at 0.5: 127 keeps, 128 repaints


def sha256(array: np.ndarray[Any, Any]) -> str:
    """Of the array's bytes in C order; 64 hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


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
