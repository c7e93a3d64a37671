"""float16: weights and arithmetic, but for networks that overflow in it. For GPUs: a CPU computes it no faster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gesso_export.bundle.manifest import NetworkSpec
from gesso_export.precision.precision import Precision
from gesso_export.proof.reference import Arrays

if TYPE_CHECKING:
    from gesso_export.families.model import Model
    from gesso_export.networks.module import NetworkModule
    from gesso_export.networks.network import Network


class Float16:
    name = "fp16"
    bytes_per_weight = 2
    # Measured over random checkpoints from the tiniest to the full Stable Diffusion 1.5: at most 9e-3, in VAE decoders.
    tolerance = 3e-2
    # Random weights of the full Stable Diffusion 1.5 are off by 3e-3. A misreading is found before, in fp32.
    picture_tolerance = tolerance
    summary = (
        "the same in half precision, but for VAEs that overflow in it (SDXL, FLUX), which stay fp32",
        "every model; for GPUs",
        f"torch in float32 and diffusers' pipeline, within {tolerance:g} standard deviations",
    )
    gate = None

    def check(self, model: Model) -> None:
        """Every model has one."""

    def applies(self, network: Network) -> bool:
        return not network.fp32_only

    def write(self, network: Network, module: NetworkModule, inputs: Arrays, folder: Path) -> NetworkSpec:
        from gesso_export.graph import trace

        spec = network.spec(self.name)
        trace.write(network, module.half(), inputs, folder / spec.file)
        return spec


PRECISION: Precision = Float16()
