"""A request, built once from the caller's arguments: the one place where options become tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypedDict, cast, get_args

import numpy.typing as npt

from gesso_client.errors import InvalidRequest
from gesso_client.models import ModelInfo
from gesso_client.parameter import Parameter
from gesso_client.pictures import AlphaMeans, Picture, image_pixels, mask_pixels, open_picture

Array = npt.NDArray[Any]
Task = Literal["inpaint", "image_to_image", "text_to_image"]
Priority = Literal["interactive", "normal", "background"]  # who goes first on a busy server


class ClientOptions(TypedDict, total=False):
    """The keyword arguments that are the client's own; none of them is a parameter of the model.

    The texts are those of client/README.md.
    """

    model: Annotated[str | None, "the model that this request goes to, if not the client's"]
    deadline: Annotated[float | None, "seconds for the whole request, waiting and retries included"]
    priority: Annotated[
        Priority | None, '`"interactive"`, `"normal"` (the default) or `"background"`: who goes first on a busy server'
    ]
    fit_mask: Annotated[bool | None, "`True` resizes a mask of another size than the image"]
    alpha_means: Annotated[
        AlphaMeans | None, "reads the mask from the alpha of `mask`, or of `image` without one; see below"
    ]


class Options(ClientOptions, total=False):
    """The keyword arguments of every call. None is the same as absent; absent is the server's default.

    A name that is missing here is still accepted when the model has a parameter of that name.
    """

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
    seed: int | None  # absent: the server draws one and returns it
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
    original_size: Sequence[int] | None  # SDXL: (height, width) that the network is told the picture had
    crops_coords_top_left: Sequence[int] | None  # SDXL: (top, left) it is told the picture was cut at
    target_size: Sequence[int] | None  # SDXL: (height, width) it is told the picture has
    negative_original_size: Sequence[int] | None  # these three: the same for the negative prompt
    negative_crops_coords_top_left: Sequence[int] | None
    negative_target_size: Sequence[int] | None


CLIENT_OPTIONS = tuple(ClientOptions.__annotations__)
PRIORITY = "gesso_priority"  # a parameter of the request, as Triton calls what is no tensor


@dataclass(frozen=True)
class Request:
    """What a transport sends."""

    model: str
    inputs: Mapping[str, Array]  # the wire's names
    lists: frozenset[str]  # those inputs that are lists, be it of one number
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
    check_names(options, info)
    if task not in info.tasks:
        raise InvalidRequest(f"{info.name!r} does not serve {task}, only {', '.join(info.tasks)}", "model")
    if prompt is None:
        raise InvalidRequest("missing", "prompt")
    given: dict[str, object] = {"prompt": prompt} if prompt or "prompt" in info.parameters else {}
    given |= {name: value for name, value in options.items() if name not in CLIENT_OPTIONS and value is not None}
    inputs = {name: _parameter(info, name).tensor(value) for name, value in given.items()}
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
        lists=frozenset(name for name in inputs if info.parameters[name].is_list),
        height=height,
        width=width,
        count=_effective("num_images_per_prompt", inputs, info, task, 1),
        deadline=_deadline(options.get("deadline")),
        live=live,
        priority=_priority(options.get("priority")),
    )


def check_names(options: Mapping[str, object], info: ModelInfo) -> None:
    """Raises InvalidRequest naming the first option that neither this client nor the model knows."""
    of_the_model = [name for name in info.parameters if name != "prompt"]
    for name in options:
        if name not in Options.__annotations__ and name not in of_the_model:
            known = ", ".join([*of_the_model, *CLIENT_OPTIONS])
            raise InvalidRequest(f"unknown option; known are {known}", name)


def _parameter(info: ModelInfo, name: str) -> Parameter:
    if name not in info.parameters:
        raise InvalidRequest(f"{info.name!r} does not take it", name)
    return info.parameters[name]


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
