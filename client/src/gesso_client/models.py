"""What a server says about a model: its tasks, its size, the default and bounds of every parameter."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gesso_client.errors import InvalidRequest, NotFound, ServerError

SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Parameter:
    """One request parameter, as the bundle bounds it."""

    name: str
    type: str  # string, int, float, bool, ints or floats
    default: Any = None  # None: optional, and absence has a meaning of its own
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    max_bytes: int | None = None  # of a string, in UTF-8
    min_items: int | None = None  # of a list; minimum and maximum are each item's
    max_items: int | None = None

    def check(self, value: object) -> Any:
        """The value as a plain str, int, float or bool, or a tuple of ints or floats.

        Raises InvalidRequest (NotFound for a choice that does not exist) in the server's own words.
        """
        if self.type not in _LISTS:
            return self._check_one(self.type, value)
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise InvalidRequest(f"{value!r} is not a list", self.name)
        items = list(value)
        least, most = self.min_items or 1, self.max_items or len(items)
        if not least <= len(items) <= most:
            wanted = f"{most}" if least == most else f"{least} to {most}"
            raise InvalidRequest(f"expected {wanted} numbers, found {len(items)}", self.name)
        return tuple(self._check_one(_LISTS[self.type], item) for item in items)

    def _check_one(self, kind: str, value: object) -> Any:
        checked: Any = _COERCE[kind](self.name, value)
        if isinstance(checked, str):
            self._check_text(checked)
        elif isinstance(checked, float) and math.isnan(checked):
            raise InvalidRequest("is not a number", self.name)
        elif self.minimum is not None and checked < self.minimum:
            raise InvalidRequest(f"{checked} is below the minimum {self.minimum}", self.name)
        elif self.maximum is not None and checked > self.maximum:
            raise InvalidRequest(f"{checked} is above the maximum {self.maximum}", self.name)
        return checked

    def _check_text(self, text: str) -> None:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest("is not UTF-8", self.name) from None
        if self.max_bytes is not None and size > self.max_bytes:
            raise InvalidRequest(f"{size} bytes is above the maximum {self.max_bytes}", self.name)
        if self.choices is not None and text not in self.choices:
            raise NotFound(f"{text!r} is not one of {', '.join(self.choices)}", self.name)


@dataclass(frozen=True)
class ModelInfo:
    """A served model. `name` is what `model=` takes; `bundle` is what was exported under."""

    name: str
    bundle: str
    family: str
    tasks: tuple[str, ...]  # inpaint, image_to_image, text_to_image
    native_inpainting: bool  # True: the network was trained on masks (9 channels)
    native_size: int  # pixels
    size_multiple: int  # height and width of text-to-image are multiples of it
    max_pixels: int  # the largest picture the network itself is run at
    parameters: Mapping[str, Parameter]
    task_defaults: Mapping[str, Mapping[str, Any]]  # task -> parameter -> default, where it differs

    def default(self, parameter: str, task: str) -> Any:
        """What the server uses when `parameter` is left out of a request for `task`; None when that has a meaning."""
        own = self.parameters[parameter].default if parameter in self.parameters else None
        return self.task_defaults.get(task, {}).get(parameter, own)

    @classmethod
    def parse(cls, name: str, text: str) -> ModelInfo:
        """From the JSON in the `gesso` parameter of the Triton model `name`.

        Keys this client does not know are left alone, so that a newer server still talks to it. Raises ServerError.
        """
        try:
            raw = json.loads(text)
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ServerError(f"speaks schema {raw['schema_version']}, this client {SCHEMA_VERSION}", name)
            return cls(
                name=name,
                bundle=raw["name"],
                family=raw["family"],
                tasks=tuple(raw["tasks"]),
                native_inpainting=raw["native_inpainting"],
                native_size=raw["size"]["native"],
                size_multiple=raw["size"]["multiple"],
                max_pixels=raw["size"]["max_pixels"],
                parameters=MappingProxyType({key: _parameter(key, spec) for key, spec in raw["parameters"].items()}),
                task_defaults=MappingProxyType(
                    {task: MappingProxyType(dict(values)) for task, values in raw["task_defaults"].items()}
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerError(f"describes itself in a way this client cannot read: {error!r}", name) from error


def _parameter(name: str, spec: Mapping[str, Any]) -> Parameter:
    if spec["type"] not in {**_COERCE, **_LISTS}:
        raise ValueError(f"{name} has the unknown type {spec['type']!r}")
    choices = spec.get("choices")
    return Parameter(
        name=name,
        type=spec["type"],
        default=spec.get("default"),
        minimum=spec.get("minimum"),
        maximum=spec.get("maximum"),
        choices=None if choices is None else tuple(choices),
        max_bytes=spec.get("max_bytes"),
        min_items=spec.get("min_items"),
        max_items=spec.get("max_items"),
    )


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{value!r} is not a string", name)
    return value


def _int(name: str, value: object) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise InvalidRequest(f"{value!r} is not an integer", name)


def _float(name: str, value: object) -> float:
    try:
        if not isinstance(value, bool | str | bytes):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{value!r} is not a number", name)


def _bool(name: str, value: object) -> bool:
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):  # numpy's, under either of its names
        return bool(value)
    raise InvalidRequest(f"{value!r} is not True or False", name)


_COERCE = {"string": _string, "int": _int, "float": _float, "bool": _bool}
_LISTS = {"ints": "int", "floats": "float"}
