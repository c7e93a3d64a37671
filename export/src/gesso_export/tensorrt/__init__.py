"""TensorRT engines beside a bundle: `gesso-export engines`.

An engine is a function of its spec (spec.py): a network's ONNX file, profiles, options, the GPU and the version of
TensorRT. It is built in a child process (child.py, builder.py), held against ONNX Runtime on the same GPU (check.py),
and only then published (publish.py). Nothing here is imported by the other commands.
"""

from __future__ import annotations

import importlib
from typing import Any

from gesso_export.errors import EngineError


def optional(name: str) -> Any:
    """A module of the `engines` extra. Raises EngineError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "quantize" if name.startswith("modelopt") else "engines"
        raise EngineError(f"{name} cannot be imported ({error}); pip install 'gesso-export[{extra}]'") from error
