"""What the header of a single file says, as the parts of a diffusers directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gesso_export.checkpoint.bounds import MOST_LAYERS
from gesso_export.checkpoint.claims import Claims
from gesso_export.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Part:
    """One network that the file holds."""

    name: str
    library: str
    class_name: str
    prefix: str  # of its tensors' names
    config: Mapping[str, Any]
    convert: Callable[[Tensors], Tensors]  # the same numbers under diffusers' names; both without the prefix

    @property
    def stem(self) -> str:
        """What the file of its weights is called."""
        return "model" if self.library == "transformers" else "diffusion_pytorch_model"


@dataclass(frozen=True)
class Asked:
    """What is known of a file besides its tensors."""

    prediction_type: str | None  # the user's word
    turbo: bool  # likewise
    vae: bool  # it is taken from elsewhere
    claims: Claims  # what the file itself says


@dataclass(frozen=True)
class Layout:
    """A whole checkpoint."""

    what: str
    pipeline: str
    parts: tuple[Part, ...]
    tokenizers: Mapping[str, str]  # CLIP's, by component: what pads
    scheduler: Mapping[str, Any]
    missing: tuple[str, ...] = ()  # components that the file does not hold
    bases: tuple[str, ...] = ()  # pipelines of the directories that they may come from
    options: Mapping[str, Any] = field(default_factory=dict)  # of the pipeline
    vae_config: Mapping[str, Any] = field(default_factory=dict)  # what no shape says of the family's VAE


def check_whole(shapes: Shapes, prefixes: Mapping[str, str]) -> None:
    """Raises CheckpointError naming every part (prefix -> what it is) that the file does not hold."""
    missing = [what for prefix, what in prefixes.items() if not any(key.startswith(prefix) for key in shapes)]
    if missing:
        how = ", or --vae FILE_OR_FOLDER" if missing == ["VAE"] else ""
        raise CheckpointError(f"this file has no {' and no '.join(missing)}; a whole checkpoint is needed{how}")


def under(shapes: Shapes, prefix: str, part: str) -> Shapes:
    """The tensors of this prefix, without it. Raises CheckpointError when there are none; part: what they would be."""
    found = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    if not found:
        raise CheckpointError(f"this file has no {part}; a whole checkpoint is needed")
    return found


def count(shapes: Shapes, prefix: str) -> int:
    """How many numbered layers there are of this prefix. Raises CheckpointError for more than any model has."""
    found = len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})
    if found > MOST_LAYERS:
        raise CheckpointError(f"this file has {found} of {prefix}*; no model has more than {MOST_LAYERS}")
    return found
