"""What a checkpoint amounts to, once a family has held it against what the backend serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gesso_export.bundle.manifest import Parameter, Scalar, SchedulerSpec, SizeSpec, VaeSpec
from gesso_export.checkpoint.tokenizer import TokenizerSource
from gesso_export.checkpoint.weights import Weights, find_weights
from gesso_export.networks.network import Network, Role


@dataclass(frozen=True)
class Model:
    """A checkpoint's networks, and what the manifest says of them."""

    family: str
    networks: tuple[Network, ...]
    native_inpainting: bool  # trained on masks
    tokenizers: Mapping[str, TokenizerSource]  # by text encoder
    scheduler: SchedulerSpec
    vae: VaeSpec
    size: SizeSpec
    parameters: dict[str, Parameter]
    task_defaults: dict[str, dict[str, Scalar]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def denoiser(self) -> Network:
        """The network that is called at every step."""
        (found,) = (network for network in self.networks if network.role is Role.DENOISER)
        return found

    @property
    def weights(self) -> dict[str, Weights]:
        """By component. Raises CheckpointError when there are none, or only pickles."""
        return {network.component.name: find_weights(network.component) for network in self.networks}
