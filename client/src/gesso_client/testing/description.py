"""What a fake server says about its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from gesso_client.models import SCHEMA_VERSION
from gesso_client.request import CLIENT_OPTIONS, Options

# The type of a keyword argument, and the (type, datatype) of the parameter it fills.
_TYPES: dict[Any, tuple[str, str]] = {
    str: ("string", "BYTES"),
    bool: ("bool", "BOOL"),
    int: ("int", "INT32"),
    float: ("float", "FP32"),
    Sequence[int]: ("ints", "INT32"),
    Sequence[float]: ("floats", "FP32"),
}


def description(**changes: Any) -> str:
    """The JSON of a model that takes everything and bounds nothing. `changes` replace its keys.

    A real model's is the string of the parameter `gesso` in its Triton configuration.
    """
    whole = {
        "schema_version": SCHEMA_VERSION,
        "kind": "diffusion",
        "name": "fake",
        "family": "stable-diffusion",
        "native_inpainting": True,
        "tasks": ["inpaint", "image_to_image", "text_to_image"],
        "size": {"native": 64, "multiple": 8, "max_pixels": 4096},
        "parameters": parameters(),
        "task_defaults": {},
        "limits": {"max_image_pixels": 2**25, "max_request_bytes": 2**27 + 2**20, "max_preview_bytes": 2**26},
    }
    return json.dumps(whole | changes)


def parameters() -> dict[str, dict[str, Any]]:
    """Every parameter that this client knows by name, without defaults and bounds."""
    types = {name: get_args(hint)[0] for name, hint in get_type_hints(Options).items() if name not in CLIENT_OPTIONS}
    found = {name: _TYPES[kind] for name, kind in ({"prompt": str} | types).items()}
    found["seed"] = ("int", "INT64")  # the one that Python's own type does not tell
    found |= dict.fromkeys(
        ("image_sha256", "mask_image_sha256"), ("string", "BYTES")
    )  # what the client fills by itself
    found |= dict.fromkeys(("picture_size", "picture_offset"), ("ints", "INT32"))
    return {name: {"type": kind, "datatype": datatype} for name, (kind, datatype) in found.items()}
