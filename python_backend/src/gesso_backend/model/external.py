"""Where an ONNX file says its weights are: read off the protobuf's bytes, without onnx and without loading a weight.

A graph may leave tensors in other files (`TensorProto.external_data`). Those files are part of a bundle as much as the
graph is: who can change them changes what is painted. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

# Message -> field -> the message in it, of all that a tensor can be in.
_HOLDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 64  # messages in one another; graphs of ours are seven
_KEY, _VALUE = 1, 2  # of an entry
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def locations(path: Path) -> set[str]:
    """The files, relative to its own folder, that the tensors of an ONNX file are in. Raises ValueError for no ONNX."""
    if path.stat().st_size == 0:
        return set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return set(_locations(data, 0, len(data), "model", 0))


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("is no ONNX file: messages are nested too deep")
    if message == "entry":
        entry = {number: data[low:high] for number, low, high in _fields(data, start, end)}
        if entry.get(_KEY) == b"location":
            yield entry.get(_VALUE, b"").decode("utf-8")
        return
    for number, low, high in _fields(data, start, end):
        inner = _HOLDS[message].get(number)
        if inner is not None:
            yield from _locations(data, low, high, inner, depth + 1)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every field of a message that holds bytes."""
    while start < end:
        tag, start = _varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start, end)
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError("is no ONNX file")
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if length is None:
            length, start = _varint(data, start, end)
        if start + length > end:
            raise ValueError("is no ONNX file, or not all of it")
        if kind == _BYTES:
            yield number, start, start + length
        start += length


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("is no ONNX file, or not all of it")
        byte = data[start]
        value, start = value | (byte & 0x7F) << shift, start + 1
        if byte < 0x80:
            return value, start
    raise ValueError("is no ONNX file")
