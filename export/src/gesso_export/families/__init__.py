"""The families of models that can be exported, each a module of this package with `PIPELINES` and `describe`.

Adding one is adding a file here and one in gesso-backend (CONTRIBUTING.md); nothing lists them by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from gesso_export.checkpoint.checkpoint import Checkpoint
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.errors import CheckpointError
from gesso_export.families.model import Model

__all__ = ["Model", "describe", "pipelines"]

_MODULES = [
    module
    for found in pkgutil.iter_modules(__path__)
    if hasattr(module := importlib.import_module(f"{__name__}.{found.name}"), "PIPELINES")
]


def pipelines() -> tuple[str, ...]:
    """The pipeline classes that are served, as model_index.json names them."""
    return tuple(name for module in _MODULES for name in module.PIPELINES)


def describe(checkpoint: Checkpoint, embeddings: Sequence[Embedding] = ()) -> Model:
    """Hold a checkpoint against what the backend serves. Raises CheckpointError naming what does not fit.

    embeddings: textual inversions to add to its text encoders.
    """
    for module in _MODULES:
        if checkpoint.pipeline in module.PIPELINES:
            model: Model = module.describe(checkpoint, embeddings)
            return model
    raise CheckpointError(f"pipeline {checkpoint.pipeline} is not supported; supported are {', '.join(pipelines())}")
