"""How one network of a bundle is made, described and tried out, before there is a file of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from gesso_export.bundle.manifest import NetworkSpec
from gesso_export.bundle.tensor import TensorSpec
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.loading import load_model
from gesso_export.checkpoint.weights import find_weights
from gesso_export.networks.module import NetworkModule
from gesso_export.proof.probes import Draw
from gesso_export.proof.reference import Arrays


class Role(Enum):
    """What a network is in a model; its name may be another in every family."""

    TEXT_ENCODER = auto()
    DENOISER = auto()  # called at every step
    IMAGE_ENCODER = auto()  # pictures to latents
    IMAGE_DECODER = auto()


@dataclass(frozen=True)
class Network:
    """How one network of a bundle is made, described and tried out."""

    name: str
    component: Component  # of the checkpoint
    wrap: Callable[[Any], NetworkModule]  # that component, as diffusers or transformers build it
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    draws: Mapping[str, Draw]  # likely values of each input
    cases: tuple[Mapping[str, int], ...]  # sizes of the free axes it is verified at; the first is traced
    role: Role
    fp32_only: bool = False  # whatever the precision of the others

    def load(self) -> NetworkModule:
        """In float32. Raises CheckpointError when there are no whole weights."""
        return self.wrap(load_model(self.component, find_weights(self.component)))

    def draw_inputs(self, case: int) -> Arrays:
        """Inputs of the case of this number; always the same ones."""
        rng, sizes = np.random.default_rng([case, *self.name.encode()]), self.cases[case]
        return {name: self.draws[name](rng, spec.at(sizes)) for name, spec in self.inputs.items()}

    def spec(self, precision: str) -> NetworkSpec:
        """Its entry in the manifest once it is written in this precision."""
        return NetworkSpec(f"{self.name}.onnx", precision, self.inputs, self.outputs)
