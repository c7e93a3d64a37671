"""A request, validated once against the bundle's bounds and never edited afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gesso_backend.bundle import PARAMETERS, SIZE_CONDITIONS, Bundle, Parameter
from gesso_backend.errors import InvalidRequest, NotFound
from gesso_backend.mask import REPAINT, Pixels

Task = Literal["inpaint", "image_to_image", "text_to_image"]

SIDES = ("height", "width")
# How the prompts are read.
PROMPTS = ("negative_prompt_strength", "prompt_weighting", "long_prompt", "clip_skip", "max_sequence_length")
STEPS = ("timestep_spacing", "timesteps", "sigmas", "eta")  # what a request may say of them besides their number
ONLY_WITH_MASK = ("padding_mask_crop", "mask_feather", "latent_blend", "require_native")
MAX_IMAGE_PIXELS = 2**25  # 32 Mpx; bounds the memory one request may take before it is looked at


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the client asked for, every default filled in. Names are the wire's (docs/api.md).

    The defaults here are of parameters that the model does not take, and mean nothing.
    """

    task: Task
    prompt: str
    prompt_2: str = ""  # for the second text encoder; empty: the prompt
    negative_prompt: str = ""
    negative_prompt_2: str = ""
    negative_prompt_strength: float = 1.0  # 1 as it is, 0 as if it were empty
    prompt_weighting: bool = False  # read (word:1.3) and [word] as emphasis
    long_prompt: bool = False  # in several chunks, or cut
    clip_skip: int = 0  # last layers of the text encoder that are left out
    max_sequence_length: int | None = None  # tokens of T5
    image: Pixels | None  # [H, W, 3] sRGB
    mask_image: Pixels | None  # [H, W]; 255 repaints, 0 keeps
    height: int  # of the output, pixels
    width: int
    num_inference_steps: int | None  # None with timesteps or sigmas
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0  # 0 none
    true_cfg_scale: float = 1.0  # of a model whose guidance_scale is distilled
    strength: float
    seed: int
    scheduler: str
    timestep_spacing: str | None = None  # None: the checkpoint's
    timesteps: tuple[int, ...] | None = None  # in place of num_inference_steps
    sigmas: tuple[float, ...] | None = None  # likewise
    eta: float = 0.0
    num_images_per_prompt: int
    padding_mask_crop: int | None  # pixels; -1 whole image; None automatic
    mask_feather: int  # pixels
    latent_blend: bool
    require_native: bool  # refused by a model that would only blend
    preview_every: int  # steps; 0 none
    original_size: tuple[int, ...] | None = None  # (height, width); None: the canvas's
    crops_coords_top_left: tuple[int, ...] | None = None  # (top, left); None: (0, 0)
    target_size: tuple[int, ...] | None = None  # (height, width); None: the canvas's
    negative_original_size: tuple[int, ...] | None = None  # None: the positive one, as for the two below
    negative_crops_coords_top_left: tuple[int, ...] | None = None
    negative_target_size: tuple[int, ...] | None = None

    def effective(self, taken: Collection[str]) -> dict[str, Any]:
        """The parameters as they were used, for the report; taken: those that the model takes."""
        names = ["task", "height", "width", "guidance_scale", "true_cfg_scale", "seed", "scheduler"]
        names += [] if self.num_inference_steps is None else ["num_inference_steps"]
        names += ["num_images_per_prompt", "preview_every"]
        names += ["strength"] if self.image is not None else []
        names += ["guidance_rescale"] if self.guidance_rescale else []
        names += list(PROMPTS)
        names += [name for name in (*STEPS, *SIZE_CONDITIONS) if getattr(self, name) not in (None, 0)]
        names += list(ONLY_WITH_MASK) if self.mask_image is not None else []
        return {name: getattr(self, name) for name in names if name == "task" or name in taken}


# The wire's inputs, in the order of docs/api.md; model_repository/inpaint/config.pbtxt declares the same.
INPUTS = (*PARAMETERS[:2], "image", "mask_image", *PARAMETERS[2:])


def parse(
    inputs: Mapping[str, np.ndarray[Any, Any]], bundle: Bundle, draw_seed: Callable[[], int] | None = None
) -> Request:
    """Validate the wire's tensors.

    inputs: name -> array as Triton delivers them (BYTES are object arrays of bytes).
    Raises InvalidRequest or NotFound naming the field.
    """
    for name in inputs:
        if name not in INPUTS:
            raise InvalidRequest(name, f"unknown input; known are {', '.join(INPUTS)}")
        if name not in ("image", "mask_image") and name not in bundle.parameters:
            raise InvalidRequest(name, "this model does not take it")
    specs = dict(bundle.parameters)
    if "image" in inputs:  # they only give flat pictures their shape back then, and a picture may have any size
        specs |= dict.fromkeys(SIDES, Parameter("int", minimum=1))
    values = {name: _value(name, inputs.get(name), spec) for name, spec in specs.items()}
    image, mask = _pictures(inputs, values)
    task: Task = "text_to_image" if image is None else "image_to_image" if mask is None else "inpaint"

    if values["prompt"] is None:
        raise InvalidRequest("prompt", "missing")
    if image is None and values["strength"] is not None:
        raise InvalidRequest("strength", "needs an image")
    for name in ONLY_WITH_MASK:
        if mask is None and values[name] is not None:
            raise InvalidRequest(name, "needs a mask_image")
    if image is None:
        for name in SIDES:
            multiple = bundle.size.multiple
            if values[name] is not None and values[name] % multiple:
                raise InvalidRequest(name, f"{values[name]} is not a multiple of {multiple}")

    for name in ("timesteps", "sigmas"):
        if values.get(name) is not None and values["num_inference_steps"] is not None:
            raise InvalidRequest("num_inference_steps", f"is how many {name} there are; leave it out")

    for name, spec in bundle.parameters.items():
        if values[name] is None:
            values[name] = bundle.task_defaults.get(task, {}).get(name, spec.default)
    if values.get("timesteps") is not None or values.get("sigmas") is not None:
        values["num_inference_steps"] = None
    if image is not None:
        values["height"], values["width"] = image.shape[:2]
    elif values["height"] * values["width"] > bundle.size.max_pixels:
        raise InvalidRequest("height", f"height * width is above the maximum of {bundle.size.max_pixels} pixels")
    if values["strength"] == 0:
        raise InvalidRequest("strength", "0 would leave no step to run")
    if values["require_native"] and not bundle.native_inpainting:
        raise InvalidRequest("require_native", "not an inpainting model: it would blend, as plain models do")
    if values["seed"] is None:
        values["seed"] = (draw_seed or (lambda: secrets.randbits(32)))()
    if values["seed"] > bundle.parameters["seed"].maximum - values["num_images_per_prompt"]:
        raise InvalidRequest("seed", "seed + num_images_per_prompt is too large")
    request = Request(task=task, image=image, mask_image=mask, **values)
    bundle.kind.check(request, bundle)
    return request


def _value(name: str, array: np.ndarray[Any, Any] | None, spec: Parameter) -> Any:
    """The value of one tensor: of a [1] its item, of a list a tuple, or None when it is absent."""
    if array is None:
        return None
    if spec.type in ("ints", "floats"):
        least, most = spec.min_items or 1, spec.max_items or 1
        if array.ndim != 1 or not least <= array.size <= most:
            wanted = f"{most}" if least == most else f"{least} to {most}"
            raise InvalidRequest(name, f"expected {wanted} numbers, found shape {list(array.shape)}")
        kind = _checked_kind(name, array, spec.type.removesuffix("s"))
        return tuple(_number(name, item, spec, kind) for item in array)
    if array.shape != (1,):
        raise InvalidRequest(name, f"expected shape [1], found {list(array.shape)}")
    if spec.type == "string":
        return _text(name, array[0], spec)
    return _number(name, array[0], spec, _checked_kind(name, array, spec.type))


def _checked_kind(name: str, array: np.ndarray[Any, Any], kind: str) -> str:
    if array.dtype.kind not in {"int": "iu", "float": "f", "bool": "b"}[kind]:
        raise InvalidRequest(name, f"expected {kind}, found {array.dtype}")
    return kind


def _number(name: str, item: Any, spec: Parameter, kind: str) -> Any:
    # A float32 on the wire stands for the decimal its sender wrote: 0.7, not 0.699999988. Steps are counted from it
    # (int(10 * strength)), so the difference is a whole step.
    value = float(str(np.float32(item))) if kind == "float" else item.item()
    if value != value:
        raise InvalidRequest(name, "is not a number")
    if spec.minimum is not None and value < spec.minimum:
        raise InvalidRequest(name, f"{value} is below the minimum {spec.minimum}")
    if spec.maximum is not None and value > spec.maximum:
        raise InvalidRequest(name, f"{value} is above the maximum {spec.maximum}")
    return value


def _text(name: str, value: Any, spec: Parameter) -> str:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise InvalidRequest(name, f"expected BYTES, found {type(value).__name__}")
    if spec.max_bytes is not None and len(value) > spec.max_bytes:
        raise InvalidRequest(name, f"{len(value)} bytes is above the maximum {spec.max_bytes}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(name, "is not UTF-8") from None
    if spec.choices is not None and text not in spec.choices:
        raise NotFound(name, f"{text!r} is not one of {', '.join(spec.choices)}")
    return text


def _pictures(
    inputs: Mapping[str, np.ndarray[Any, Any]], values: dict[str, Any]
) -> tuple[Pixels | None, Pixels | None]:
    """The image [H, W, 3] and the mask [H, W], or None for what is absent."""
    image, mask = inputs.get("image"), inputs.get("mask_image")
    if image is None:
        if mask is not None:
            raise InvalidRequest("mask_image", "needs an image")
        return None, None
    image = _picture("image", image, 3, values)
    if image.shape[2] != 3:
        raise InvalidRequest("image", f"expected shape [H, W, 3], found {list(image.shape)}")
    for name, size in zip(SIDES, image.shape[:2], strict=True):
        if values[name] not in (None, size):
            raise InvalidRequest(name, f"is for text-to-image; the image has {size}")
    if mask is None:
        return image, None
    mask = _picture("mask_image", mask, 2, values)
    if mask.shape != image.shape[:2]:
        raise InvalidRequest("mask_image", f"size {list(mask.shape)} differs from the image's {list(image.shape[:2])}")
    if mask.max() < REPAINT:
        raise InvalidRequest("mask_image", f"is empty: no pixel reaches {REPAINT}, so nothing is to be repainted")
    return image, mask


def _picture(name: str, array: np.ndarray[Any, Any], rank: int, values: dict[str, Any]) -> Pixels:
    if array.dtype != np.uint8:
        raise InvalidRequest(name, f"expected uint8, found {array.dtype}")
    if array.ndim != rank:
        raise InvalidRequest(name, f"expected {rank} axes, found shape {list(array.shape)}")
    if array.size == 0:
        raise InvalidRequest(name, f"has no pixel: shape {list(array.shape)}")
    if array.shape[0] * array.shape[1] > MAX_IMAGE_PIXELS:
        raise InvalidRequest(name, f"more than {MAX_IMAGE_PIXELS} pixels")
    # Triton's generate_stream takes flat JSON lists and delivers them as one row; height and width give the shape back.
    height, width = values["height"], values["width"]
    if array.shape[0] == 1 and height and width and array.shape[1] == height * width:
        array = array.reshape(height, width, *array.shape[2:])
    return np.ascontiguousarray(array)
