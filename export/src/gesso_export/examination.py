"""A checkpoint, looked at before anything is made of it: every part held against the others, and all that is amiss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gesso_export import families
from gesso_export.checkpoint import bounds, claims, fit, loading, tokenizer
from gesso_export.checkpoint.checkpoint import Checkpoint, Component, StatedComponent
from gesso_export.checkpoint.clip_vocabulary import MAX_TOKENS
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.checkpoint.header import Header
from gesso_export.checkpoint.weights import INTEGERS, find_weights
from gesso_export.errors import CheckpointError
from gesso_export.families import Model
from gesso_export.single_file.layout import Layout, Part
from gesso_export.single_file.unpack import converted_shapes

T = TypeVar("T")
_NAMED = 6


@dataclass
class Stored:
    """What there is of one network."""

    class_name: str
    files: tuple[Path, ...]
    parameters: int
    dtypes: tuple[str, ...]
    layers: int | None  # None: they have levels


@dataclass
class Examination:
    """What was found; with reasons to refuse it, the rest may be incomplete."""

    refused: list[str] = field(default_factory=list)
    model: Model | None = None
    checkpoint: Checkpoint | None = None
    claims: claims.Claims = field(default_factory=claims.Claims)
    stored: dict[str, Stored] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # tensors that take no part, as in diffusers

    def attempt(self, look: Callable[[], T]) -> T | None:
        """What `look` finds; a reason to refuse is kept, once."""
        try:
            return look()
        except CheckpointError as error:
            if str(error) not in self.refused:
                self.refused.append(str(error))
            return None

    def check(self) -> None:
        """Raises CheckpointError with the first reason to refuse."""
        if self.refused:
            raise CheckpointError(self.refused[0])


def examine(
    checkpoint: Checkpoint, embeddings: Sequence[Embedding] = (), found: Examination | None = None
) -> Examination:
    """Every part that has files of its own, and what they amount to together. Weights are mapped, and not read.

    found: what is known of the others.
    """
    found = found or Examination()
    found.checkpoint = checkpoint
    found.model = found.attempt(lambda: families.describe(checkpoint, embeddings))
    parts = {name: part for name, part in checkpoint.components.items() if not isinstance(part, StatedComponent)}
    if "unet" in parts and "scheduler" in checkpoint.components:
        found.claims = found.attempt(lambda: claims.of_directory(checkpoint)) or found.claims
        found.attempt(lambda: claims.check(checkpoint))
    for part in parts.values():
        known = bounds.table(part.class_name)
        if known and found.attempt(part.config) is not None and part.class_name in bounds.NETWORKS:
            found.attempt(lambda part=part: _examine_network(found, part))  # type: ignore[misc]
    for source in found.model.tokenizers.values() if found.model else ():
        if source.component.name in parts:
            found.attempt(lambda source=source: tokenizer.load(source))  # type: ignore[misc]
    return found


def examine_file(file: Path, header: Header, layout: Layout, said: claims.Claims) -> Examination:
    """A single file, by its header: nothing is unpacked. Its checkpoint has the parts that the file holds."""
    found = Examination(claims=said)
    components: dict[str, Component] = {}
    for part in layout.parts:
        components[part.name] = examine_part(found, part, header, file)
    prefixes = tuple(part.prefix for part in layout.parts)
    found.left_out += sorted(name for name in header.shapes if not name.startswith(prefixes))
    for name in layout.tokenizers:
        settings = {"model_max_length": MAX_TOKENS}
        components[name] = StatedComponent(name, "transformers", "CLIPTokenizer", file.parent, settings)
    scheduler = str(layout.scheduler["_class_name"])
    components["scheduler"] = StatedComponent("scheduler", "diffusers", scheduler, file.parent, layout.scheduler)
    found.checkpoint = Checkpoint(file.parent, file.name, None, layout.pipeline, components, layout.options)
    return found


def examine_part(found: Examination, part: Part, header: Header, file: Path) -> Component:
    """One network of a single file, by its header."""
    component = StatedComponent(part.name, part.library, part.class_name, file.parent, part.config)
    shapes = {name: shape for name, shape in header.shapes.items() if name.startswith(part.prefix)}
    numbers = {name: shape for name, shape in shapes.items() if header.dtypes[name] not in INTEGERS}
    found.stored[part.name] = Stored(
        part.class_name,
        (file,),
        sum(math.prod(shape) for shape in numbers.values()),
        tuple(sorted({header.dtypes[name] for name in numbers})),
        _layers(part.config),
    )

    def compare() -> list[str]:
        bounds.check(part.config, part.class_name, part.name)
        return fit.compare(component, converted_shapes(part, shapes), whole=True)

    found.left_out += [f"{part.name}: {name}" for name in found.attempt(compare) or ()]
    return component


def _examine_network(found: Examination, component: Component) -> None:
    weights = find_weights(component)
    found.stored[component.name] = Stored(
        component.class_name,
        weights.files,
        weights.parameters(),
        tuple(sorted(weights.dtypes())),
        _layers(component.config()),
    )
    found.left_out += [f"{component.name}: {name}" for name in fit.check(component, weights)]
    loading.open_model(component, weights)


def _layers(config: Mapping[str, Any]) -> int | None:
    layers: int | None = config.get("num_hidden_layers", config.get("num_layers"))
    return layers


def abridged(names: Sequence[str]) -> str:
    """The first few, to be read in a line."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
