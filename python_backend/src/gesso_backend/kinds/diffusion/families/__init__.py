"""The families of models that are served, each a module of this package with a `FAMILY`: see `family` for the contract.

Adding one is adding a file here and one in gesso-export (CONTRIBUTING.md); nothing lists them by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from gesso_backend.errors import BundleError
from gesso_backend.kinds.diffusion import samplers
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.families.family import Family

__all__ = ["FAMILIES", "Family", "check"]

_MODULES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

# The others belong to some families only; a bundle lists those that its model takes.
REQUIRED = ("prompt", "height", "width", "num_inference_steps", "strength", "scheduler")

COLOURS = 3
MOST = {"num_inference_steps": 1000, "max_sequence_length": 4096, "height": 2**14, "width": 2**14, "clip_skip": 64}
MOST_OF_CONFIG = 10**6  # of any number in a scheduler's config

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
    for parameter, most in MOST.items():
        spec = bundle.parameters.get(parameter)
        if spec is not None and (spec.maximum or 0) > most:
            raise BundleError(f"parameters.{parameter}.maximum: {spec.maximum} is above {most}")
    size = bundle.size
    if size.multiple % bundle.vae.factor or size.max_pixels < size.multiple**2:
        raise BundleError(
            f"size: {size.max_pixels} pixels and multiples of {size.multiple} at a VAE's {bundle.vae.factor}"
        )
    _check_networks(bundle, family)
    _check_sampler(bundle)
    latents = bundle.vae.latent_channels
    found = bundle.denoiser_spec.inputs["sample"].shape[1]
    expected = family.inpainting_channels(bundle) if bundle.native_inpainting else latents
    if found != expected:
        raise BundleError(f"networks.{bundle.denoiser}.inputs.sample: {found} channels, expected {expected}")
    if len(bundle.preview_rgb.matrix) != latents:
        raise BundleError(f"preview_rgb.matrix: {len(bundle.preview_rgb.matrix)} rows for {latents} latent channels")
    for row in (*bundle.preview_rgb.matrix, bundle.preview_rgb.bias):
        if len(row) != COLOURS:
            raise BundleError(f"preview_rgb: {len(row)} numbers for {COLOURS} colours")


def _check_networks(bundle: DiffusionBundle, family: Family) -> None:
    """The inputs and outputs that are called by name are there, with the axes that are looked at."""
    wanted = {bundle.denoiser: ("sample", "noise_pred"), "vae_encoder": ("sample", "moments")}
    wanted |= {"vae_decoder": ("latents", "image")}
    for network, (input_, output) in wanted.items():
        for ports, what, name in (
            (bundle.networks[network].inputs, "inputs", input_),
            (bundle.networks[network].outputs, "outputs", output),
        ):
            if name not in ports or len(ports[name].shape) != 4:
                raise BundleError(f"networks.{network}.{what}: expected {name!r} with four axes")
    for encoder in family.text_encoders:
        ids = bundle.networks[encoder].inputs.get("input_ids")
        longest = bundle.tokenizers[encoder].max_length
        if ids is None or len(ids.shape) != 2:
            raise BundleError(f"networks.{encoder}.inputs: expected 'input_ids' with two axes")
        if isinstance(ids.shape[1], int) and ids.shape[1] != longest:
            raise BundleError(f"tokenizers.{encoder}.max_length: {longest} is not the network's {ids.shape[1]}")


def _check_sampler(bundle: DiffusionBundle) -> None:
    """The scheduler's config is one that the sampler it is for can be planned with."""
    for key, value in bundle.scheduler.config.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and abs(number) > MOST_OF_CONFIG:
                raise BundleError(f"scheduler.config.{key}: {number} is beyond {MOST_OF_CONFIG}")
    default = bundle.parameters["scheduler"].default
    try:
        samplers.tabulate(str(default), bundle.scheduler.config, 2, mu=1.0)
    except Exception as error:  # of a config that says anything, what a sampler's arithmetic comes to is anything
        raise BundleError(f"scheduler.config: {default!r} cannot be planned with it: {error}") from None
