"""The networks of a bundle as torch modules with the inputs and outputs of docs/bundle.md.

Each casts its float32 inputs to the precision of its weights and its output back, so that how a bundle is called does
not depend on how it was exported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gesso_export.checkpoint import Component, find_weights
from gesso_export.loading import load_model
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


class PenultimateTextEncoder(NetworkModule):
    """input_ids [B, tokens], clip_skip [B] -> prompt_embeds [B, tokens, hidden], of the last layer but one, unnormed.

    SDXL's first text encoder. `clip_skip` leaves out further layers.
    """

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> Any:
        return _penultimate(self.model(input_ids=input_ids, output_hidden_states=True), clip_skip)


class PooledTextEncoder(NetworkModule):
    """The same and text_embeds [B, projection], the projected summary of the text: SDXL's second text encoder."""

    def forward(self, input_ids: torch.Tensor, clip_skip: torch.Tensor) -> Any:
        answer = self.model(input_ids=input_ids, output_hidden_states=True)
        return _penultimate(answer, clip_skip), answer.text_embeds.float()


def _penultimate(answer: Any, clip_skip: torch.Tensor) -> torch.Tensor:
    layers = answer.hidden_states[1:-1]
    picked = layers[-1]
    for skipped, layer in enumerate(reversed(layers[:-1]), start=1):
        picked = torch.where(clip_skip[:, None, None] == skipped, layer, picked)
    return picked.float()


class SummaryTextEncoder(NetworkModule):
    """input_ids [B, tokens] -> text_embeds [B, hidden], CLIP's summary of the text: FLUX's first text encoder."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids).pooler_output.float()


class T5TextEncoder(NetworkModule):
    """input_ids [B, tokens] -> prompt_embeds [B, tokens, d_model]. Padding is attended to, as FLUX was trained."""

    def half(self) -> T5TextEncoder:
        """In half precision but for the layers that overflow in it, as transformers itself keeps them."""
        super().half()
        for name, layer in self.model.named_modules():
            if name.endswith(".wo"):
                layer.float()
        return self

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids).last_hidden_state.float()


class Waves(torch.nn.Module):  # type: ignore[misc]
    """diffusers' `Timesteps` with its frequencies as constants.

    Computed in the graph, an exponential may differ in its last bit from torch's: for a guidance of 30, which FLUX
    embeds as 30,000, that bit is a thousandth of a turn.
    """

    def __init__(self, timesteps: Any) -> None:
        super().__init__()
        half = timesteps.num_channels // 2
        assert timesteps.flip_sin_to_cos, "FLUX's embeddings begin with the cosines"
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32)
        exponent /= half - timesteps.downscale_freq_shift
        self.register_buffer("frequencies", torch.exp(exponent), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[B] -> [B, channels]."""
        angles = values[:, None].float() * self.frequencies.float()
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class Last(torch.nn.Module):  # type: ignore[misc]
    """The last of its arguments."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return values[-1]


class FluxTransformer(NetworkModule):
    """Latents as all other networks have them; they are packed, two by two into a token, and unpacked inside.

    sample [B, 16 or 96, h, w], timestep [B] in 0 to 1000, encoder_hidden_states [B, tokens, width],
    pooled_projections [B, width], guidance [B] if the model is guided -> noise_pred [B, 16, h, w].
    """

    def __init__(self, model: Any) -> None:
        # diffusers rounds timestep and guidance to the weights' precision before it embeds them: in half precision, a
        # guidance of 30 by half a hundredth. So they are embedded here, in float32, and handed in as if pooled.
        embed, model.time_text_embed = model.time_text_embed, Last()
        super().__init__(model)
        self.embed = embed

    def prepare_for_tracing(self) -> None:
        self.embed.time_proj = Waves(self.embed.time_proj)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype = self.dtype
        cells = torch.nn.functional.pixel_unshuffle(sample.to(dtype), 2)  # [B, 4 c, h / 2, w / 2]
        rows, columns = cells.shape[2:]
        places = torch.zeros(rows, columns, 3)
        places[..., 1] += torch.arange(rows)[:, None]
        places[..., 2] += torch.arange(columns)[None]
        scales = [timestep] if guidance is None else [timestep, 1000 * guidance]
        velocity = self.model(
            hidden_states=cells.flatten(2).transpose(1, 2),
            timestep=timestep,
            guidance=guidance,
            encoder_hidden_states=encoder_hidden_states.to(dtype),
            pooled_projections=self.embed(*scales, pooled_projections.to(dtype)),
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3),
            img_ids=places.flatten(0, 1),
        ).sample
        cells = velocity.transpose(1, 2).unflatten(2, (rows, columns))
        return torch.nn.functional.pixel_shuffle(cells, 2).float()


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


class TextTimeUNet(UNet):
    """As `UNet`, with text_embeds [B, projection] and time_ids [B, 6]: SDXL's."""

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        dtype = self.dtype
        added = {"text_embeds": text_embeds, "time_ids": time_ids}  # joined in float32, and cast by the UNet
        hidden = encoder_hidden_states.to(dtype)
        return self.model(sample.to(dtype), timestep, hidden, added_cond_kwargs=added).sample.float()


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
    """How one network of a bundle is made, described and tried out."""

    name: str
    component: Component  # of the checkpoint
    wrap: Callable[[Any], NetworkModule]  # that component, as diffusers or transformers build it
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    draws: Mapping[str, Draw]  # likely values of each input
    cases: tuple[Mapping[str, int], ...]  # sizes of the free axes it is verified at; the first is traced
    keep_fp32: bool = False  # in every precision

    def load(self) -> NetworkModule:
        """In float32. Raises CheckpointError when there are no whole weights."""
        return self.wrap(load_model(self.component, find_weights(self.component)))

    def draw_inputs(self, case: int) -> Arrays:
        """Inputs of the case of this number; always the same ones."""
        rng, sizes = np.random.default_rng([case, *self.name.encode()]), self.cases[case]
        return {
            name: self.draws[name](rng, tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape))
            for name, spec in self.inputs.items()
        }


def run(module: NetworkModule, inputs: Arrays) -> list[Array]:
    """What torch answers, on one thread: on more, its last bits, and so the bundle's hash, depend on how many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            answer = module(*(torch.from_numpy(value) for value in inputs.values()))
    finally:
        torch.set_num_threads(threads)
    return [tensor.numpy() for tensor in (answer if isinstance(answer, tuple) else (answer,))]
