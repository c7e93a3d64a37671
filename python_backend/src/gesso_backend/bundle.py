"""The bundle: everything the server knows about a model, parsed strictly into frozen dataclasses (docs/bundle.md)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gesso_backend.errors import BundleError
from gesso_backend.families import FAMILIES, Family

MANIFEST = "bundle.json"
SCHEMA_VERSION = 3


@dataclass(frozen=True)
class TensorSpec:
    dtype: str
    shape: tuple[int | str, ...]  # a name is a free axis


@dataclass(frozen=True)
class NetworkSpec:
    file: str
    precision: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class SchedulerSpec:
    config: Mapping[str, Any]  # the checkpoint's scheduler_config.json, as it is


@dataclass(frozen=True)
class VaeSpec:
    factor: int  # pixels per latent, each way
    latent_channels: int
    scaling_factor: float
    shift_factor: float


@dataclass(frozen=True)
class SizeSpec:
    native: int  # pixels a side the model was trained at
    multiple: int  # a working side is a multiple of this
    max_pixels: int  # most pixels a network is run at


@dataclass(frozen=True)
class TokenizerSpec:
    file: str
    max_length: int
    bos_token_id: int | None  # None: texts have no begin
    eos_token_id: int
    pad_token_id: int
    embeddings: Mapping[str, int] | None = None  # textual inversions: token -> how many vectors it stands for


@dataclass(frozen=True)
class PreviewSpec:
    matrix: tuple[tuple[float, ...], ...]  # [latent channels, 3]
    bias: tuple[float, ...]  # [3]


@dataclass(frozen=True)
class Parameter:
    """Bounds and default of one request parameter. No default: the parameter may be absent and that means something."""

    type: Literal["string", "int", "float", "bool", "ints", "floats"]
    default: str | int | float | bool | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[str, ...] | None = None
    max_bytes: int | None = None
    min_items: int | None = None  # of a list; minimum and maximum are each item's
    max_items: int | None = None


@dataclass(frozen=True)
class SourceSpec:
    checkpoint: str
    revision: str | None
    pipeline: str


@dataclass(frozen=True)
class FileSpec:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Bundle:
    schema_version: int
    name: str
    family: str
    networks: Mapping[str, NetworkSpec]
    scheduler: SchedulerSpec
    vae: VaeSpec
    size: SizeSpec
    tokenizers: Mapping[str, TokenizerSpec]  # by text encoder
    preview_rgb: PreviewSpec
    parameters: Mapping[str, Parameter]
    task_defaults: Mapping[str, Mapping[str, Any]]
    source: SourceSpec
    license: str
    files: Mapping[str, FileSpec]
    exporter: Mapping[str, str]
    options: Mapping[str, Any]  # what else its family has to know

    @property
    def kind(self) -> Family:
        """Its family's part of the code."""
        return FAMILIES[self.family]

    @property
    def denoiser(self) -> NetworkSpec:
        return self.networks[self.kind.denoiser]

    @property
    def native_inpainting(self) -> bool:
        """True for a denoiser that takes the mask and the masked image as input channels."""
        return self.denoiser.inputs["sample"].shape[1] != self.vae.latent_channels

    def describe(self) -> dict[str, Any]:
        """What a client may know of the model: names, sizes, and each parameter's default and bounds."""
        return {
            "schema_version": self.schema_version,
            "name": self.name,
            "family": self.family,
            "native_inpainting": self.native_inpainting,
            "tasks": ["inpaint", "image_to_image", "text_to_image"],
            "size": dataclasses.asdict(self.size),
            "parameters": {
                name: {k: v for k, v in dataclasses.asdict(spec).items() if v is not None}
                for name, spec in self.parameters.items()
            },
            "task_defaults": {task: dict(defaults) for task, defaults in self.task_defaults.items()},
        }


# What SDXL is told of a picture's past: (height, width) or (top, left).
SIZE_CONDITIONS = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)
PARAMETERS = (
    "prompt",
    "negative_prompt",
    "prompt_2",
    "negative_prompt_2",
    "negative_prompt_strength",
    "prompt_weighting",
    "long_prompt",
    "clip_skip",
    "max_sequence_length",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "guidance_rescale",
    "true_cfg_scale",
    "strength",
    "seed",
    "scheduler",
    "timestep_spacing",
    "timesteps",
    "sigmas",
    "eta",
    "num_images_per_prompt",
    "padding_mask_crop",
    "mask_feather",
    "latent_blend",
    "require_native",
    "preview_every",
    *SIZE_CONDITIONS,
)
# The others belong to some families only; a bundle lists those that its model takes.
ALWAYS = (
    "prompt",
    "height",
    "width",
    "num_inference_steps",
    "strength",
    "seed",
    "scheduler",
    "num_images_per_prompt",
    "padding_mask_crop",
    "mask_feather",
    "latent_blend",
    "require_native",
    "preview_every",
)


def load(folder: Path) -> Bundle:
    """Read and check a bundle.

    Raises BundleError naming the key or file: bad JSON, unknown or missing keys, missing files, wrong sizes or hashes.
    """
    manifest = folder / MANIFEST
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest}: {error}") from None
    bundle = parse(document)
    for name, spec in bundle.files.items():
        _check_file(folder, name, spec)
    return bundle


def parse(document: Any) -> Bundle:
    """The manifest as a Bundle, without looking at the files."""
    if isinstance(document, dict) and document.get("schema_version") != SCHEMA_VERSION:
        found = document.get("schema_version")
        raise BundleError(f"schema_version: {found!r} is not {SCHEMA_VERSION}; export again with this gesso-export")
    bundle: Bundle = _decode(Bundle, document, "")
    if bundle.family not in FAMILIES:
        raise BundleError(f"family: {bundle.family!r} is not one of {', '.join(FAMILIES)}")
    for network in bundle.kind.networks:
        if network not in bundle.networks:
            raise BundleError(f"networks: {network!r} is missing")
    for network, spec in bundle.networks.items():
        if spec.file not in bundle.files:
            raise BundleError(f"networks.{network}.file: {spec.file!r} is not in files")
    for encoder in bundle.kind.text_encoders:
        if encoder not in bundle.tokenizers:
            raise BundleError(f"tokenizers: {encoder!r} is missing")
    for encoder, tokenizer in bundle.tokenizers.items():
        if tokenizer.file not in bundle.files:
            raise BundleError(f"tokenizers.{encoder}.file: {tokenizer.file!r} is not in files")
    for parameter in bundle.parameters:
        if parameter not in PARAMETERS:
            raise BundleError(f"parameters.{parameter}: unknown key")
    for parameter in ALWAYS:
        if parameter not in bundle.parameters:
            raise BundleError(f"parameters.{parameter}: missing")
    latents = bundle.vae.latent_channels
    channels, native = bundle.denoiser.inputs["sample"].shape[1], bundle.kind.inpainting_channels(bundle)
    if channels not in (latents, native):
        network = bundle.kind.denoiser
        raise BundleError(f"networks.{network}.inputs.sample: {channels} channels, expected {latents} or {native}")
    if len(bundle.preview_rgb.matrix) != latents:
        raise BundleError(f"preview_rgb.matrix: {len(bundle.preview_rgb.matrix)} rows for {latents} latent channels")
    return bundle


def _check_file(folder: Path, name: str, spec: FileSpec) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"files.{name}: outside the bundle")
    if not path.is_file():
        raise BundleError(f"files.{name}: the file is missing")
    if path.stat().st_size != spec.bytes:
        raise BundleError(f"files.{name}: {path.stat().st_size} bytes, expected {spec.bytes}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != spec.sha256:
            raise BundleError(f"files.{name}: sha256 differs from the manifest's; the file is damaged")


def _decode(kind: Any, value: Any, key: str) -> Any:
    """`value` (from JSON) as `kind`: a dataclass, tuple, mapping, union, literal or plain type."""
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, key)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise BundleError(f"{key}: expected an object, found {value!r}")
        return types.MappingProxyType({k: _decode(arguments[1], v, f"{key}.{k}") for k, v in value.items()})
    if origin is tuple:
        if not isinstance(value, list):
            raise BundleError(f"{key}: expected a list, found {value!r}")
        return tuple(_decode(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise BundleError(f"{key}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    choices = arguments if origin in (typing.Union, types.UnionType) else (kind,)
    for choice in choices:
        if typing.get_origin(choice) is tuple and isinstance(value, list):
            return _decode(choice, value, key)
        if type(value) is choice:
            return value
    if float in choices and type(value) is int:
        return float(value)
    expected = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise BundleError(f"{key}: expected {expected}, found {value!r}")


def _decode_dataclass(kind: Any, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{key or MANIFEST}: expected an object, found {value!r}")
    hints = typing.get_type_hints(kind)
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            raise BundleError(f"{prefix}{name}: unknown key")
    for field in dataclasses.fields(kind):
        if field.name not in value and field.default is dataclasses.MISSING:
            raise BundleError(f"{prefix}{field.name}: missing")
    return kind(**{name: _decode(hints[name], item, f"{prefix}{name}") for name, item in value.items()})
