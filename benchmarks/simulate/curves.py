"""What a network call takes where nobody measured it: two machines that differ in what batching buys."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.simulate.simulation import DENOISER, FACTOR, LATENTS
from gesso_backend.serving.costs import Costs

Seconds = Mapping[str, Mapping[int, Mapping[int, float]]]  # network -> pixels (or latents) -> rows -> seconds
SEES = {"text_encoder": "tokens", "vae_encoder": "pixels", DENOISER: "latents", "vae_decoder": "pixels"}


def costs(seconds: Seconds) -> Costs:
    return Costs(seconds, SEES)


CURVES: Mapping[str, Costs] = {
    "CPU, batching buys nothing": costs(
        {
            "text_encoder": {1: {2: 0.004}},
            "vae_encoder": {LATENTS * FACTOR: {1: 0.02}},
            DENOISER: {LATENTS: {2: 0.034, 4: 0.068}},
            "vae_decoder": {LATENTS: {1: 0.04}},
        }
    ),
    "GPU, a row in 16 costs a quarter": costs(
        {
            "text_encoder": {1: {2: 0.004, 16: 0.008}},
            "vae_encoder": {LATENTS * FACTOR: {1: 0.01, 4: 0.03}},
            DENOISER: {LATENTS: {2: 0.012, 4: 0.016, 8: 0.024, 16: 0.024}},
            "vae_decoder": {LATENTS: {1: 0.02, 4: 0.06}},
        }
    ),
}


def paced(measured: Costs, factor: float) -> Costs:
    """The costs on a machine on which every call takes `factor` times as long."""
    return costs(
        {
            network: {size: {rows: factor * took for rows, took in times.items()} for size, times in sizes.items()}
            for network, sizes in measured.seconds.items()
        }
    )
