"""A diffusers checkpoint on disk: which components it has, and their configs.

Opening one reads JSON only. Nothing here executes code from the checkpoint.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gesso_export.checkpoint import bounds
from gesso_export.checkpoint.strict import read_json, read_text
from gesso_export.errors import CheckpointError

INDEX = "model_index.json"
_NAMED = 8  # files of a folder that is none

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
        """Its config file, with every value in its bounds. Raises CheckpointError when it is missing or is none."""
        config = read_json(self.folder, self.config_name)
        bounds.check(config, self.class_name, f"{self.folder.name}/{self.config_name}")
        said = config.get("_class_name", self.class_name)
        if said != self.class_name and self.class_name in bounds.NETWORKS:
            found = f"its config is of the class {bounds.short(said)}"
            raise CheckpointError(f"{self.name}: {INDEX} says {self.class_name}, but {found}")
        if config.get("quantization_config"):
            raise CheckpointError(f"{self.name}: the weights are quantised (quantization_config), not supported")
        return config

    @property
    def config_name(self) -> str:
        return _CONFIG_NAMES.get(self.name, "config.json")


@dataclass(frozen=True)
class StatedComponent(Component):
    """A component whose config is not, or not as it stands, in a file of its folder."""

    settings: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self.settings))


@dataclass(frozen=True)
class SingleFile:
    """The file that a checkpoint was unpacked from, and what was said of it."""

    path: Path
    prediction_type: str | None = None
    turbo: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been found; see `open_checkpoint`."""

    root: Path
    name: str
    revision: str | None
    pipeline: str
    components: Mapping[str, Component]
    index: Mapping[str, Any]  # model_index.json
    prediction_type: str | None = None  # what the user says of it
    file: SingleFile | None = None  # whose weights are under `root`; None: `root` is the person's own
    vae_file: Path | None = None  # the same of the VAE, when it is from a file of its own

    def adding(self, components: Mapping[str, Component]) -> Checkpoint:
        """The same with these components, in place of its own of the same names."""
        return replace(self, components={**self.components, **components})


def open_checkpoint(root: Path, name: str, revision: str | None = None) -> Checkpoint:
    """Read model_index.json in `root`. Raises CheckpointError when it is missing or is no JSON object."""
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a directory; a checkpoint is a diffusers directory or a hub id")
    root, revision = snapshot(root, revision)
    if not os.path.lexists(root / INDEX):
        found = ", ".join(sorted(path.name for path in root.iterdir())[:_NAMED]) or "nothing"
        raise CheckpointError(f"{root} has no {INDEX}, which a checkpoint has; there is {found}")
    index = read_json(root, INDEX)
    components = {}
    for key, entry in index.items():
        match entry:
            case [str(library), str(class_name)]:
                components[key] = Component(key, library, class_name, root / key)
    return Checkpoint(root, name, revision, str(index.get("_class_name")), components, index)


def snapshot(root: Path, revision: str | None = None) -> tuple[Path, str | None]:
    """Of the folder in which the hub's cache keeps a repository, the snapshot of `main` and its commit.

    Any other folder is itself. Raises CheckpointError when it is not clear which snapshot is meant.
    """
    if (root / INDEX).exists():
        return root, revision
    if repositories := sorted(path.name for path in root.glob("models--*--*") if path.is_dir()):
        raise CheckpointError(f"{root} is the hub's cache; name one of its repositories: {', '.join(repositories)}")
    if root.name == "snapshots":
        root = root.parent
    folder = root / "snapshots"
    if not folder.is_dir():
        return root, revision
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    main = root / "refs" / "main"
    commit = read_text(main).strip() if main.exists() else found[0] if len(found) == 1 else None
    if commit not in found:
        names = ", ".join(found) or "none"
        raise CheckpointError(f"{root} is a repository of the hub's cache; name one of its snapshots: {names}")
    return folder / commit, commit
