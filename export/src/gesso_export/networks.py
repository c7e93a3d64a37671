"""The networks of a bundle as torch modules with the inputs and outputs of docs/bundle.md.

Each casts its float32 inputs to the precision of its weights and its output back, so that how a bundle is called does
not depend on how it was exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gesso_export.manifest import TensorSpec
from gesso_export.sampling import Array, Draw

Arrays = dict[str, Array]


class NetworkModule(torch.nn.Module):  # type: ignore[misc]
    """A wrapper around one diffusers or transformers model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def prepare_for_tracing(self) -> None:
        """Called once before the module is traced, after its reference outputs have been taken."""


class TextEncoder(NetworkModule):
    """input_ids [B, tokens], clip_skip [B] -> prompt_embeds [B, tokens, hidden].

    `clip_skip` is how many of the last layers are left out; the final norm is not one of them, as in diffusers.
    """

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> torch.Tensor:
        layers = self.model(input_ids=input_ids, output_hidden_states=True).hidden_states[1:]
        picked = layers[-1]
        for skipped, layer in enumerate(reversed(layers[:-1]), start=1):
            picked = torch.where(clip_skip[:, None, None] == skipped, layer, picked)
        return self.model.final_layer_norm(picked).float()


class UNet(NetworkModule):
    """sample [B, 4 or 9, h, w], timestep [B], encoder_hidden_states [B, tokens, hidden] -> noise_pred [B, 4, h, w]."""

    def prepare_for_tracing(self) -> None:
        # diffusers upsamples to the sizes of the skip connections only when the input is not a multiple of
        # 2 ** num_upsamplers. The graph must always do so, or it would hold for such multiples alone.
        self.model.num_upsamplers = 30

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.dtype  # the timestep stays float32: it may be fractional, and it is embedded in float32 anyway
        return self.model(sample.to(dtype), timestep, encoder_hidden_states.to(dtype)).sample.float()


class VaeEncoder(NetworkModule):
    """sample [B, 3, H, W] in [-1, 1] -> moments [B, 2 * latent channels, h, w]: mean and unclamped logvar."""

    def __init__(self, model: Any) -> None:
        del model.decoder, model.post_quant_conv
        super().__init__(model)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        moments = self.model.encoder(sample.to(self.dtype))
        if self.model.quant_conv is not None:
            moments = self.model.quant_conv(moments)
        return moments.float()


class VaeDecoder(NetworkModule):
    """latents [B, latent channels, h, w], unscaled -> image [B, 3, H, W], unclamped."""

    def __init__(self, model: Any) -> None:
        del model.encoder, model.quant_conv
        super().__init__(model)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents.to(self.dtype)
        if self.model.post_quant_conv is not None:
            latents = self.model.post_quant_conv(latents)
        return self.model.decoder(latents).float()


@dataclass(frozen=True)
class Network:
    """How one network of a bundle is loaded, described and tried out."""

    name: str
    load: Callable[[], NetworkModule]  # in float32
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    draws: Mapping[str, Draw]  # likely values of each input
    cases: tuple[Mapping[str, int], ...]  # sizes of the free axes it is verified at; the first is traced

    def draw_inputs(self, case: int) -> Arrays:
        """Inputs of the case of this number; always the same ones."""
        rng, sizes = np.random.default_rng([case, *self.name.encode()]), self.cases[case]
        return {
            name: self.draws[name](rng, tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape))
            for name, spec in self.inputs.items()
        }


def run(module: NetworkModule, inputs: Arrays) -> Array:
    """What torch answers, on one thread: on more, its last bits, and so the bundle's hash, depend on how many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            output: Array = module(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    finally:
        torch.set_num_threads(threads)
    return output
