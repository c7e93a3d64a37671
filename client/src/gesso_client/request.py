"""A request, built once from what the caller said: the one place where options become tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt

from gesso_client.errors import InvalidRequest
from gesso_client.models import ModelInfo
from gesso_client.pictures import AlphaMeans, Picture, image_pixels, mask_pixels, open_picture

Array = npt.NDArray[Any]
Task = Literal["inpaint", "image_to_image", "text_to_image"]
Priority = Literal["interactive", "normal", "background"]  # who goes first on a busy server


class Options(TypedDict, total=False):
    """The keyword arguments of every call. None is the same as absent; absent is the server's default."""

    negative_prompt: str | None
    prompt_2: str | None  # for the second text encoder; absent: the prompt
    negative_prompt_2: str | None
    negative_prompt_strength: float | None  # 1 as it is, 0 as if it were empty
    prompt_weighting: bool | None  # read (word:1.3) and [word] as emphasis
    long_prompt: bool | None  # in several chunks; False: cut with a warning
    clip_skip: int | None  # last layers of the text encoder to leave out
    max_sequence_length: int | None  # tokens of T5
    height: int | None  # pixels; text-to-image only
    width: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_rescale: float | None  # 0 none
    true_cfg_scale: float | None  # guidance by a negative prompt, where guidance_scale is distilled (FLUX)
    strength: float | None  # needs an image
    seed: int | None  # absent: the server draws one and tells it
    scheduler: str | None
    timestep_spacing: str | None  # leading, linspace or trailing
    timesteps: Sequence[int] | None  # falling, in place of num_inference_steps
    sigmas: Sequence[float] | None  # falling, likewise
    eta: float | None
    num_images_per_prompt: int | None  # picture i uses seed + i
    padding_mask_crop: int | None  # pixels of context; -1 the whole image; absent: automatic
    mask_feather: int | None  # pixels, inside the mask only
    latent_blend: bool | None
    require_native: bool | None  # refuse a model that was not trained on masks
    preview_every: int | None  # steps; 0 none
    original_size: Sequence[int] | None  # SDXL: (height, width) the picture is said to have had
    crops_coords_top_left: Sequence[int] | None  # SDXL: (top, left) of the crop it is said to be
    target_size: Sequence[int] | None  # SDXL: (height, width) it is said to have
    negative_original_size: Sequence[int] | None
    negative_crops_coords_top_left: Sequence[int] | None
    negative_target_size: Sequence[int] | None
    # Of the client, not of the wire:
    model: str | None
    deadline: float | None  # seconds for the whole request, queue and retries included
    priority: Priority | None  # absent: normal
    fit_mask: bool | None  # resize a mask of another size
    alpha_means: AlphaMeans | None  # read the mask from the alpha of `mask`, or of `image` when mask is None


# SDXL's pairs of (height, width) or (top, left).
SIZES = (
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
)
# Every parameter of the wire and its type there; each has shape [1], but for LISTS.
DTYPES: Mapping[str, type[np.generic]] = MappingProxyType(
    {
        "prompt": np.object_,
        "negative_prompt": np.object_,
        "prompt_2": np.object_,
        "negative_prompt_2": np.object_,
        "negative_prompt_strength": np.float32,
        "prompt_weighting": np.bool_,
        "long_prompt": np.bool_,
        "clip_skip": np.int32,
        "max_sequence_length": np.int32,
        "height": np.int32,
        "width": np.int32,
        "num_inference_steps": np.int32,
        "guidance_scale": np.float32,
        "guidance_rescale": np.float32,
        "true_cfg_scale": np.float32,
        "strength": np.float32,
        "seed": np.int64,
        "scheduler": np.object_,
        "timestep_spacing": np.object_,
        "timesteps": np.int32,
        "sigmas": np.float32,
        "eta": np.float32,
        "num_images_per_prompt": np.int32,
        "padding_mask_crop": np.int32,
        "mask_feather": np.int32,
        "latent_blend": np.bool_,
        "require_native": np.bool_,
        "preview_every": np.int32,
        **dict.fromkeys(SIZES, np.int32),
    }
)
LISTS = ("timesteps", "sigmas", *SIZES)
PRIORITY = "gesso_priority"  # a parameter of the request, as Triton calls what is no tensor


@dataclass(frozen=True)
class Request:
    """What a transport sends."""

    model: str
    inputs: Mapping[str, Array]  # the wire's names
    height: int  # of the pictures that will come back
    width: int
    count: int  # of the pictures that will come back
    deadline: float | None  # seconds from the moment it is sent
    live: bool  # the caller follows the events; False: only the pictures matter
    priority: Priority | None = None

    @property
    def parameters(self) -> dict[str, int | str]:
        """What Triton calls the parameters of a request."""
        parameters: dict[str, int | str] = {}
        if self.deadline is not None:
            parameters["timeout"] = max(1, round(self.deadline * 1e6))  # microseconds; 0 is none for Triton
        if self.priority is not None:
            parameters[PRIORITY] = self.priority
        return parameters


def task_of(image: Picture | None, mask: Picture | None, options: Options) -> Task:
    """What the presence of image and mask asks for, exactly as on the wire."""
    if image is None:
        return "text_to_image"
    return "image_to_image" if mask is None and options.get("alpha_means") is None else "inpaint"


def build(
    info: ModelInfo,
    task: Task,
    prompt: str,
    image: Picture | None,
    mask: Picture | None,
    options: Options,
    *,
    live: bool,
) -> Request:
    """Check everything against the model's bounds and make the tensors. Raises InvalidRequest or NotFound."""
    check_names(options)
    if task not in info.tasks:
        raise InvalidRequest(f"{info.name!r} does not serve {task}, only {', '.join(info.tasks)}", "model")
    if prompt is None:
        raise InvalidRequest("missing", "prompt")
    given: dict[str, object] = {"prompt": prompt}
    given |= {name: value for name, value in options.items() if name in DTYPES and value is not None}
    inputs = {name: _tensor(name, value, info) for name, value in given.items()}
    pictures = _pictures(task, image, mask, options)
    if "image" in pictures:
        height, width = pictures["image"].shape[:2]
        for name, size in (("height", height), ("width", width)):
            if inputs.pop(name, size) != size:
                raise InvalidRequest(f"is for text-to-image; the image has {size}", name)
    else:
        height, width = (_effective(side, inputs, info, task, info.native_size) for side in ("height", "width"))
    return Request(
        model=info.name,
        inputs=MappingProxyType(inputs | pictures),
        height=height,
        width=width,
        count=_effective("num_images_per_prompt", inputs, info, task, 1),
        deadline=_deadline(options.get("deadline")),
        live=live,
        priority=_priority(options.get("priority")),
    )


def check_names(options: Mapping[str, object]) -> None:
    """Raises InvalidRequest naming the first option that does not exist."""
    for name in options:
        if name not in Options.__annotations__:
            raise InvalidRequest(f"unknown option; known are {', '.join(Options.__annotations__)}", name)


def _tensor(name: str, value: object, info: ModelInfo) -> Array:
    if name not in info.parameters:
        raise InvalidRequest(f"{info.name!r} does not take it", name)
    checked = info.parameters[name].check(value)
    items = checked if isinstance(checked, tuple) else (checked,)
    dtype = DTYPES[name]
    for item in items:
        if issubclass(dtype, np.integer) and not np.iinfo(dtype).min <= item <= np.iinfo(dtype).max:
            raise InvalidRequest(f"{item} does not fit in {np.dtype(dtype).name}", name)
    return np.array([item.encode() if isinstance(item, str) else item for item in items], dtype=dtype)


def _effective(name: str, inputs: Mapping[str, Array], info: ModelInfo, task: Task, otherwise: int) -> int:
    """The value the server will use."""
    return int(inputs[name][0]) if name in inputs else int(info.default(name, task) or otherwise)


def _pictures(task: Task, image: Picture | None, mask: Picture | None, options: Options) -> dict[str, Array]:
    """`image` [H, W, 3] and `mask_image` [H, W], as far as the task has them."""
    if task == "text_to_image":
        return {}
    if image is None:
        raise InvalidRequest("missing", "image")
    opened = open_picture(image, "image")
    if task == "image_to_image":
        return {"image": image_pixels(opened)}
    alpha_means, fit = options.get("alpha_means"), bool(options.get("fit_mask"))
    if mask is None and alpha_means is None:
        raise InvalidRequest("missing; give a mask, or alpha_means to read it from the image's alpha", "mask_image")
    levels = opened if mask is None else open_picture(mask, "mask_image")
    return {
        "image": image_pixels(opened, drop_alpha=mask is None),
        "mask_image": mask_pixels(levels, opened.size, alpha_means=alpha_means, fit=fit),
    }


def _deadline(seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise InvalidRequest(f"{seconds!r} is not a number of seconds above 0", "deadline")
    return float(seconds)


def _priority(value: object) -> Priority | None:
    for known in get_args(Priority):
        if value == known:
            return cast(Priority, known)
    if value is None:
        return None
    raise InvalidRequest(f"{value!r} is not one of {', '.join(get_args(Priority))}", "priority")
