"""The one table of request parameters.

Each row says what a parameter is on the wire, what it means, when it is allowed and when the report has it. From here
come the fields of a request, the inputs that are read (`wire`), both config.pbtxt, what clients are told
(`Bundle.describe`) and the table of docs/api.md (`make tables`). Defaults and bounds are the bundle's, but for those
parameters that are the server's own and mean the same for every model: these have theirs here (`own`).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Type = Literal["string", "int", "float", "bool", "ints", "floats"]


@dataclass(frozen=True)
class Parameter:
    """Bounds and default of one parameter. No default: the parameter may be absent and that means something."""

    type: Type
    default: str | int | float | bool | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[str, ...] | None = None
    max_bytes: int | None = None
    min_items: int | None = None  # of a list; minimum and maximum are each item's
    max_items: int | None = None


@dataclass(frozen=True)
class Row:
    """What the table says of a parameter besides its name and type."""

    text: str  # for docs/api.md
    needs: Literal["image", "mask_image"] | None = None  # refused without
    report: Literal["always", "set", "never"] = "always"  # whether the report has it; set: unless it is None or 0
    own: Parameter | None = None  # of the server's own: its default and bounds
    datatype: str = ""  # Triton's name of the type; empty: as the field's type has it


def _row(text: str, default: Any, **about: Any) -> Any:
    """A field of `Parameters`; default: what a request has whose model does not take it."""
    return field(default=default, metadata={"row": Row(text, **about)})


def _size(text: str) -> Any:
    return _row(f"SDXL: {text}", None, report="set")


def _piece(text: str, least: int) -> Any:
    own = Parameter("ints", minimum=least, maximum=2**30, min_items=2, max_items=2)
    return _row(text, None, needs="mask_image", report="never", own=own)


def _digest(needs: str, text: str) -> Any:
    return _row(f"SHA-256 {text}", None, needs=needs, report="never", own=Parameter("string", max_bytes=64))


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """A request's parameters, every default filled in. The order is the wire's."""

    prompt: str = _row("UTF-8", "", report="never")
    negative_prompt: str = _row(
        "used when there is guidance: `guidance_scale` above 1, for FLUX `true_cfg_scale` (else refused)",
        "", report="never",
    )  # fmt: skip
    prompt_2: str = _row(
        "SDXL, FLUX: for the second text encoder; absent or empty: the same as the first", "", report="never"
    )
    negative_prompt_2: str = _row("the same for the negative prompt", "", report="never")
    negative_prompt_strength: float = _row("1: as it is; 0: as if it were empty; up to 2: beyond", 1.0)
    prompt_weighting: bool = _row(
        "read emphasis in both prompts: `(word)`, `(word:1.3)`, `[word]`; off by default", False
    )
    long_prompt: bool = _row(
        "prompts of over 75 tokens go on in further chunks (default); off: they are cut, with a warning", False
    )
    clip_skip: int = _row("last layers of the text encoder that are left out, as diffusers counts them; 0 none", 0)
    max_sequence_length: int | None = _row("FLUX: tokens that T5 reads, padding included", None)
    height: int = _row("text-to-image only; a multiple of the bundle's size multiple", 0)
    width: int = _row("likewise", 0)
    num_inference_steps: int | None = _row("denoising steps", None, report="set")
    guidance_scale: float = _row("1 or less: no guidance, at half the cost", 1.0)
    guidance_rescale: float = _row(
        "0 to 1: how far the guided prediction's spread is brought back to the prompt's own", 0.0, report="set"
    )
    true_cfg_scale: float = _row(
        "FLUX: classifier-free guidance beside the distilled one; above 1 it costs a second row", 1.0
    )
    strength: float = _row(
        "in (0, 1]; the share of the steps that is run. Defaults are the bundle's, by task", 1.0, needs="image"
    )
    seed: int = _row(
        "absent: drawn, and always returned. As in torch, only the low 32 bits count",
        0, own=Parameter("int", minimum=0, maximum=2**63 - 1), datatype="INT64",
    )  # fmt: skip
    scheduler: str = _row("a sampler, see below; default: the checkpoint's", "")
    timestep_spacing: str | None = _row(
        "`leading`, `linspace`, `trailing`; default: the checkpoint's", None, report="set"
    )
    timesteps: tuple[int, ...] | None = _row(
        "your own steps, falling, in place of `num_inference_steps`", None, report="set"
    )
    sigmas: tuple[float, ...] | None = _row(
        "your own noise levels, falling, likewise; with the final one, for FLUX without it", None, report="set"
    )
    eta: float = _row("0 to 1: the noise of `ddim`, the gamma of `tcd`", 0.0, report="set")
    num_images_per_prompt: int = _row(
        "picture i uses seed + i. `inpaint_once` takes 1 only", 1, own=Parameter("int", 1, minimum=1, maximum=8)
    )
    padding_mask_crop: int | None = _row(
        "pixels of context around the mask; -1 the whole picture; absent: automatic",
        None, needs="mask_image", own=Parameter("int", minimum=-1, maximum=4096),
    )  # fmt: skip
    mask_feather: int = _row(
        "pixels over which the edge fades, *inside* the mask",
        0, needs="mask_image", own=Parameter("int", 0, minimum=0, maximum=256),
    )  # fmt: skip
    mask_invert: bool = _row(
        "the mask's white is kept and its black repainted; off by default",
        False, needs="mask_image", report="set", own=Parameter("bool", False),
    )  # fmt: skip
    latent_blend: bool = _row(
        "put the kept latents back at every step, and close the seam at the mask's edge (default). Off: exactly "
        "diffusers",
        True, needs="mask_image", own=Parameter("bool", True),
    )  # fmt: skip
    require_native: bool = _row(
        "refuse a model that was not trained on masks and would only blend; off by default",
        False, needs="mask_image", own=Parameter("bool", False),
    )  # fmt: skip
    preview_every: int = _row("steps between previews; 0 none", 0, own=Parameter("int", 0, minimum=0, maximum=200))
    preview_size: int = _row(
        "pixels of a preview's longer side, never more than the picture's",
        512, report="never", own=Parameter("int", 512, minimum=16, maximum=2048),
    )  # fmt: skip
    original_size: tuple[int, ...] | None = _size(
        "(height, width) the network is told the picture had; absent: the canvas's"
    )
    crops_coords_top_left: tuple[int, ...] | None = _size(
        "(top, left) it is told the picture was cut at; absent: (0, 0)"
    )
    target_size: tuple[int, ...] | None = _size("(height, width) it is told the picture has; absent: the canvas's")
    negative_original_size: tuple[int, ...] | None = _size("the same for the negative prompt; absent: the positive one")
    negative_crops_coords_top_left: tuple[int, ...] | None = _size("likewise")
    negative_target_size: tuple[int, ...] | None = _size("likewise")
    picture_size: tuple[int, ...] | None = _piece(
        "(height, width) of a picture of which `image` and `mask_image` are a piece, see below", 1
    )
    picture_offset: tuple[int, ...] | None = _piece("(top, left) of the piece in it", 0)
    image_sha256: str | None = _digest("image", "of the bytes of `image`, in hexadecimal; others are refused")
    mask_image_sha256: str | None = _digest("mask_image", "the same of `mask_image`, as it was sent")


@dataclass(frozen=True)
class Listed(Row):
    """A row with its name and types read off."""

    name: str = ""
    type: Type = "string"

    @property
    def is_list(self) -> bool:
        return self.type in ("ints", "floats")


_TYPES: Mapping[Any, tuple[Type, str]] = {
    str: ("string", "BYTES"),
    int: ("int", "INT32"),
    float: ("float", "FP32"),
    bool: ("bool", "BOOL"),
    tuple[int, ...]: ("ints", "INT32"),
    tuple[float, ...]: ("floats", "FP32"),
}


def _listed() -> Mapping[str, Listed]:
    hints = typing.get_type_hints(Parameters)
    rows = {}
    for each in fields(Parameters):
        kinds = [kind for kind in (typing.get_args(hints[each.name]) or (hints[each.name],)) if kind is not type(None)]
        hint = hints[each.name] if hints[each.name] in _TYPES else kinds[0]
        kind, datatype = _TYPES[hint]
        row: Row = each.metadata["row"]
        rows[each.name] = Listed(
            row.text, row.needs, row.report, row.own, row.datatype or datatype, name=each.name, type=kind
        )
    return types.MappingProxyType(rows)


PARAMETERS: Mapping[str, Listed] = _listed()
# What decides how much is sent back: serving, which knows no parameter, names them when it is too much.
PICTURES, PREVIEWS = "num_images_per_prompt", "preview_every"
# The server's own, the same for every model.
OWN: Mapping[str, Parameter] = types.MappingProxyType(
    {n: row.own for n, row in PARAMETERS.items() if row.own is not None}
)
