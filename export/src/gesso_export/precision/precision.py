"""The contract of a precision: how networks are written in it, how large they are, and how far off they may be.

The weights are written one network at a time. What is true of a network alone is checked right after that, against
torch. A precision whose values tell too little (8-bit integers) has a gate besides: once all networks of the bundle
stand, pictures are painted with it and without it, and there is no bundle of what fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gesso_export.bundle.manifest import NetworkSpec, TokenizerSpec
from gesso_export.proof.reference import Arrays, Case

if TYPE_CHECKING:  # these import torch, which a bundle is verified without
    from gesso_export.families.model import Model
    from gesso_export.networks.module import NetworkModule
    from gesso_export.networks.network import Network


@dataclass(frozen=True)
class Draft:
    """A bundle that is being written; filled by the exporter, network by network."""

    folder: Path
    model: Model
    tokenizers: dict[str, TokenizerSpec]  # by text encoder
    networks: dict[str, NetworkSpec] = field(default_factory=dict)
    cases: dict[str, list[Case]] = field(default_factory=dict)  # reference inputs and answers, by network


@dataclass(frozen=True)
class Passed:
    """What a gate let through."""

    network: NetworkSpec
    cases: list[Case]  # what `gesso-export verify` holds it to from now on
    quality: str  # for people


Gate = Callable[[Draft, str], Passed]


class Precision(Protocol):
    """A module of this package has one as `PRECISION`, which is all that it takes to offer it."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> tuple[str, str, str]:
        """For people: what is written in it, of which models, and what it is held to."""

    @property
    def bytes_per_weight(self) -> float:
        """On the disk while the bundle is made."""

    @property
    def tolerance(self) -> float:
        """Largest error allowed of a reference answer, in standard deviations of the expected output."""

    @property
    def picture_tolerance(self) -> float:
        """Largest distance allowed from what diffusers' own pipeline paints; see proof.sketch.distance."""

    def check(self, model: Model) -> None:
        """Raises CheckpointError for a model that there is no bundle of in this precision."""

    def applies(self, network: Network) -> bool:
        """Whether this network is written in it; the others are float32."""

    def write(self, network: Network, module: NetworkModule, inputs: Arrays, folder: Path) -> NetworkSpec:
        """Write the network's files to `folder`; returns its entry of the manifest, by which it is then verified.

        module: the network in torch, float32; it may be changed, and is not used again. inputs: to trace it on.
        Raises CheckpointError for a module that cannot be traced.
        """

    @property
    def gate(self) -> Gate | None:
        """Finishes and judges a network of the draft, by name. Raises VerificationError when it is not good enough."""
