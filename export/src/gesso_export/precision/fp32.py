"""float32: what the other precisions are held against. The denoiser gets a second graph, for CPUs."""

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


class Float32:
    name = "fp32"
    bytes_per_weight = 4
    # Measured over random checkpoints from the tiniest to the full Stable Diffusion 1.5: at most 6e-5, in VAE decoders.
    tolerance = 3e-4
    picture_tolerance = tolerance  # 1e-5 at most over the tests' checkpoints; a single transposed matrix is off by 1e-3
    summary = (
        "weights and arithmetic of every network; a second graph of the denoiser, for CPUs",
        "every model",
        f"torch and diffusers' pipeline, within {tolerance:g} standard deviations",
    )
    gate = None

    def check(self, model: Model) -> None:
        """Every model has one."""

    def applies(self, network: Network) -> bool:
        return True

    def write(self, network: Network, module: NetworkModule, inputs: Arrays, folder: Path) -> NetworkSpec:
        from gesso_export.graph import attention, trace
        from gesso_export.networks.network import Role

        spec = network.spec(self.name)
        trace.write(network, module, inputs, folder / spec.file)
        if network.role is Role.DENOISER:  # a VAE has one small attention, and gains nothing
            attention.write(folder / spec.file, folder / spec.cpu_file)
        return spec


PRECISION: Precision = Float32()
