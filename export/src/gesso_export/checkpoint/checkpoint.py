"""A diffusers checkpoint on disk: which components it has, and their configs.

Opening one reads JSON only. Nothing here executes code from the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso_export.errors import CheckpointError

INDEX = "model_index.json"

_CONFIG_NAMES = {
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
}


@dataclass(frozen=True)
class Component:
    """One sub-folder of a checkpoint."""

    name: str
    library: str
    class_name: str
    folder: Path

    def config(self) -> dict[str, Any]:
        """Its config file. Raises CheckpointError when it is missing or is no JSON object."""
        return read_json(self.folder, _CONFIG_NAMES.get(self.name, "config.json"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been found; see `open_checkpoint`."""

    root: Path
    name: str
    revision: str | None
    pipeline: str
    components: Mapping[str, Component]
    index: Mapping[str, Any]  # model_index.json


def open_checkpoint(root: Path, name: str, revision: str | None = None) -> Checkpoint:
    """Read model_index.json in `root`. Raises CheckpointError when it is missing or is no JSON object."""
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a directory; a checkpoint is a diffusers directory or a hub id")
    index = read_json(root, INDEX)
    components = {}
    for key, entry in index.items():
        match entry:
            case [str(library), str(class_name)]:
                components[key] = Component(key, library, class_name, root / key)
    return Checkpoint(root, name, revision, str(index.get("_class_name")), components, index)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError when it is missing or is something else."""
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {name}: a component is missing or this is no checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content
