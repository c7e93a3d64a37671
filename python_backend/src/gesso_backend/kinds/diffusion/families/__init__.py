"""The families of models that are served, each a module of this package with a `FAMILY`: see `family` for the contract.

Adding one is adding a file here and one in gesso-export (CONTRIBUTING.md); nothing lists them by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from gesso_backend.errors import BundleError
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families.family import Family

__all__ = ["FAMILIES", "Family", "check"]

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

# The others belong to some families only; a bundle lists those that its model takes.
REQUIRED = ("prompt", "height", "width", "num_inference_steps", "strength", "scheduler")

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {module.FAMILY.name: module.FAMILY for module in _MODULES if hasattr(module, "FAMILY")}
)


def check(bundle: DiffusionBundle) -> None:
    """Hold a bundle against its family. Raises BundleError naming the key."""
    if bundle.family not in FAMILIES:
        raise BundleError(f"family: {bundle.family!r} is not one of {', '.join(FAMILIES)}")
    family = FAMILIES[bundle.family]
    for network in (*family.text_encoders, bundle.denoiser, "vae_encoder", "vae_decoder"):
        if network not in bundle.networks:
            raise BundleError(f"networks: {network!r} is missing")
    for encoder in family.text_encoders:
        if encoder not in bundle.tokenizers:
            raise BundleError(f"tokenizers: {encoder!r} is missing")
    for encoder, tokenizer in bundle.tokenizers.items():
        if tokenizer.file not in bundle.files:
            raise BundleError(f"tokenizers.{encoder}.file: {tokenizer.file!r} is not in files")
    for parameter in REQUIRED:
        if parameter not in bundle.parameters:
            raise BundleError(f"parameters.{parameter}: missing")
    latents = bundle.vae.latent_channels
    found = bundle.denoiser_spec.inputs["sample"].shape[1]
    expected = family.inpainting_channels(bundle) if bundle.native_inpainting else latents
    if found != expected:
        raise BundleError(f"networks.{bundle.denoiser}.inputs.sample: {found} channels, expected {expected}")
    if len(bundle.preview_rgb.matrix) != latents:
        raise BundleError(f"preview_rgb.matrix: {len(bundle.preview_rgb.matrix)} rows for {latents} latent channels")
