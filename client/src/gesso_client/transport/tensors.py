"""Arrays to Triton's raw tensors and back; gRPC and binary HTTP share the encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)


def encode(array: npt.NDArray[Any]) -> tuple[str, bytes]:
    """(Triton's datatype, raw bytes)."""
    datatype = str(np_to_triton_dtype(array.dtype))
    return datatype, serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()


def decode(datatype: str, shape: Sequence[int], raw: bytes) -> npt.NDArray[Any]:
    """Read-only, over `raw`. Raises ValueError when the bytes do not fill the shape."""
    if datatype == "BYTES":
        flat: npt.NDArray[Any] = deserialize_bytes_tensor(raw)
    else:
        flat = np.frombuffer(raw, dtype=triton_to_np_dtype(datatype))
    return flat.reshape(tuple(shape))
