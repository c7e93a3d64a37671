"""One request parameter of a model: its type, default and bounds, and how a value becomes a tensor."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from gesso_client.errors import InvalidRequest, NotFound, shortened
from gesso_client.samplers import nearest

# Triton's names of a tensor's type, as far as parameters have them, and numpy's.
DTYPES: Mapping[str, type[np.generic]] = MappingProxyType(
    {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
)


@dataclass(frozen=True)
class Parameter:
    """As the server describes it."""

    name: str
    type: str  # string, int, float, bool, ints or floats
    datatype: str  # Triton's name of the tensor's type: BYTES, BOOL, INT32, INT64 or FP32
    default: Any = None  # None: optional, and absence has a meaning of its own
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    max_bytes: int | None = None  # of a string, in UTF-8
    min_items: int | None = None  # of a list; minimum and maximum are each item's
    max_items: int | None = None

    @property
    def is_list(self) -> bool:
        """Its tensor has shape [n]; all others have [1]."""
        return self.type in _LISTS

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.datatype])

    def tensor(self, value: object) -> npt.NDArray[Any]:
        """[n] or [1] of `dtype`: the value, checked, as it travels. Raises InvalidRequest and NotFound."""
        checked = self.check(value)
        items = checked if self.is_list else (checked,)
        for item in items:
            # numpy 1 would wrap it around
            if self.dtype.kind == "i" and not np.iinfo(self.dtype).min <= item <= np.iinfo(self.dtype).max:
                raise InvalidRequest(f"{shortened(item)} does not fit in {self.dtype.name}", self.name)
        return np.array([item.encode() if isinstance(item, str) else item for item in items], self.dtype)

    def check(self, value: object) -> Any:
        """The value as a plain str, int, float or bool, or a tuple of ints or floats.

        Raises InvalidRequest (NotFound for a choice that does not exist) in the server's own words.
        """
        if not self.is_list:
            return self._check_one(self.type, value)
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise InvalidRequest(f"{shortened(value)} is not a list", self.name)
        try:
            items = list(value)
        except TypeError as error:  # an array without dimensions
            raise InvalidRequest(f"{shortened(value)} is not a list", self.name) from error
        least, most = self.min_items or 1, self.max_items or len(items)
        if not least <= len(items) <= most:
            wanted = f"{most}" if least == most else f"{least} to {most}"
            raise InvalidRequest(f"expected {wanted} numbers, found {len(items)}", self.name)
        return tuple(self._check_one(_LISTS[self.type], item) for item in items)

    @classmethod
    def parse(cls, name: str, spec: Mapping[str, Any]) -> Parameter:
        """From its entry in a model's description. Raises KeyError or ValueError for one that cannot be read."""
        kind, datatype = spec["type"], spec["datatype"]
        if kind not in {**_COERCE, **_LISTS}:
            raise ValueError(f"{name} has the unknown type {kind!r}")
        if datatype not in _DATATYPES[_LISTS.get(kind, kind)]:
            raise ValueError(f"{name} is of type {kind!r} and cannot be {datatype!r}")
        choices = spec.get("choices")
        return cls(
            name=name,
            type=kind,
            datatype=datatype,
            default=spec.get("default"),
            minimum=spec.get("minimum"),
            maximum=spec.get("maximum"),
            choices=None if choices is None else tuple(choices),
            max_bytes=spec.get("max_bytes"),
            min_items=spec.get("min_items"),
            max_items=spec.get("max_items"),
        )

    def _check_one(self, kind: str, value: object) -> Any:
        checked: Any = _COERCE[kind](self.name, value)
        if isinstance(checked, str):
            self._check_text(checked)
        elif isinstance(checked, float) and math.isnan(checked):
            raise InvalidRequest("is not a number", self.name)
        elif self.minimum is not None and checked < self.minimum:
            raise InvalidRequest(f"{shortened(checked)} is below the minimum {self.minimum}", self.name)
        elif self.maximum is not None and checked > self.maximum:
            raise InvalidRequest(f"{shortened(checked)} is above the maximum {self.maximum}", self.name)
        return checked

    def _check_text(self, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest("is not UTF-8", self.name) from None
        if self.max_bytes is not None and size > self.max_bytes:
            raise InvalidRequest(f"{size} bytes is above the maximum {self.max_bytes}", self.name)
        if self.choices is not None and text not in self.choices:
            found = f"{shortened(text)} is not one of {', '.join(self.choices)}"
            guess = nearest(text, self.choices) if self.name == "scheduler" else None
            raise NotFound(found if guess is None else f"{found}; did you mean {guess!r}?", self.name)


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{shortened(value)} is not a string", name)
    return value


def _int(name: str, value: object) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise InvalidRequest(f"{shortened(value)} is not an integer", name)


def _float(name: str, value: object) -> float:
    try:
        if not isinstance(value, bool | str | bytes):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{shortened(value)} is not a number", name)


def _bool(name: str, value: object) -> bool:
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):  # numpy's, under either of its names
        return bool(value)
    raise InvalidRequest(f"{shortened(value)} is not True or False", name)


_COERCE = {"string": _string, "int": _int, "float": _float, "bool": _bool}
_LISTS = {"ints": "int", "floats": "float"}
_DATATYPES = {"string": ("BYTES",), "int": ("INT32", "INT64"), "float": ("FP32",), "bool": ("BOOL",)}
