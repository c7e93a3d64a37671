"""What a server says about a model: its tasks, its size, the default and bounds of every parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gesso_client.errors import InvalidRequest, NotFound, ServerError, shortened
from gesso_client.parameter import Parameter

SCHEMA_VERSION = 4


@dataclass(frozen=True)
class Limits:
    """What the server takes at most in one request; None: it does not say."""

    max_image_pixels: int | None = None  # of the picture that is sent
    max_request_bytes: int | None = None  # of all tensors together
    max_preview_bytes: int | None = None  # of a request's previews

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> Limits:
        """From a description. Raises ValueError for a bound that is no whole number."""
        known = {name: spec.get(name) for name in cls.__dataclass_fields__}
        for name, bound in known.items():
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int)):
                raise ValueError(f"{name} is {bound!r}, no whole number")
        return cls(**known)


def name_of(model: object, otherwise: str) -> str:
    """What `model=` says. Raises InvalidRequest for what is no name."""
    if model is not None and not isinstance(model, str):
        raise InvalidRequest(f"{shortened(model)} is not a string", "model")
    return model or otherwise


@dataclass(frozen=True)
class ModelInfo:
    """A served model. `name` is what `model=` takes; `bundle` is what was exported under."""

    name: str
    bundle: str
    kind: str  # diffusion
    family: str | None  # None where the kind has no families
    tasks: tuple[str, ...]  # inpaint, image_to_image, text_to_image
    native_inpainting: bool  # True: the network was trained on masks (it takes mask channels)
    native_size: int  # pixels
    size_multiple: int  # height and width of text-to-image are multiples of it
    max_pixels: int  # the largest picture the network itself is run at
    parameters: Mapping[str, Parameter]
    task_defaults: Mapping[str, Mapping[str, Any]]  # task -> parameter -> default, where it differs
    limits: Limits = Limits()

    def default(self, parameter: str, task: str) -> Any:
        """What the server uses when `parameter` is left out of a request for `task`; None when that has a meaning."""
        own = self.parameters[parameter].default if parameter in self.parameters else None
        return self.task_defaults.get(task, {}).get(parameter, own)

    @classmethod
    def parse(cls, name: str, text: str | None) -> ModelInfo:
        """From the JSON in the `gesso` parameter of the Triton model `name`; None where it has none.

        Keys this client does not know are left alone, so that a newer server still talks to it.
        Raises NotFound when the model is not one of gesso's, ServerError when its description cannot be read.
        """
        if text is None:
            raise NotFound(f"{name!r} is not a gesso model", "model")
        try:
            raw = json.loads(text)
            if raw["schema_version"] != SCHEMA_VERSION:
                raise ServerError(f"speaks schema {raw['schema_version']}, this client {SCHEMA_VERSION}", name)
            return cls(
                name=name,
                bundle=raw["name"],
                kind=raw["kind"],
                family=raw.get("family"),
                tasks=tuple(raw["tasks"]),
                native_inpainting=raw.get("native_inpainting", False),
                native_size=raw["size"]["native"],
                size_multiple=raw["size"]["multiple"],
                max_pixels=raw["size"]["max_pixels"],
                parameters=MappingProxyType(
                    {key: Parameter.parse(key, spec) for key, spec in raw["parameters"].items()}
                ),
                task_defaults=MappingProxyType(
                    {task: MappingProxyType(dict(values)) for task, values in raw["task_defaults"].items()}
                ),
                limits=Limits.parse(raw.get("limits", {})),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ServerError(f"describes itself in a way this client cannot read: {error!r}", name) from error
