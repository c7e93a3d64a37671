"""A request, built once from the caller's arguments: the one place where options become tensors."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypedDict, cast, get_args

import numpy.typing as npt

from gesso_client import seconds
from gesso_client.errors import InvalidRequest, shortened
from gesso_client.models import ModelInfo
from gesso_client.original import Original
from gesso_client.parameter import Parameter
from gesso_client.pictures import AlphaMeans
from gesso_client.source import Picture, Taken
from gesso_client.upload import OWN, check_limits, decoded, of_image, of_inpainting

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
    seed: int | None  # absent or -1: the server draws one and returns it
    scheduler: str | None
    timestep_spacing: str | None  # leading, linspace or trailing
    timesteps: Sequence[int] | None  # falling, in place of num_inference_steps
    sigmas: Sequence[float] | None  # falling, likewise
    eta: float | None
    num_images_per_prompt: int | None  # picture i uses seed + i
    padding_mask_crop: int | None  # pixels of context; -1 the whole image; absent: automatic
    mask_feather: int | None  # pixels, inside the mask only
    mask_invert: bool | None  # the mask's white is kept, its black repainted
    latent_blend: bool | None
    require_native: bool | None  # refuse a model that was not trained on masks
    preview_every: int | None  # steps; 0 none
    preview_size: int | None  # pixels of a preview's longest side
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
    height: int  # of the pictures on the wire, both ways
    width: int
    count: int  # of the pictures that will come back
    deadline: float | None  # seconds from the moment it is sent
    live: bool  # the caller follows the events; False: only the pictures matter
    original: Original = field(repr=False)  # what the pictures that come back are held against
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


def task_of(image: Picture | Taken | None, mask: Picture | Taken | None, options: Options) -> Task:
    """What the presence of image and mask asks for, exactly as on the wire."""
    if image is None:
        return "text_to_image"
    return "image_to_image" if mask is None and options.get("alpha_means") is None else "inpaint"


def build(
    info: ModelInfo,
    task: Task,
    prompt: str,
    image: Picture | Taken | None,
    mask: Picture | Taken | None,
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
    if _draws(given.get("seed")):
        del given["seed"]
    inputs = {name: _parameter(info, name).tensor(value) for name, value in given.items()}
    pictures, original = _pictures(info, task, image, mask, options, inputs)
    if original.image is not None:
        for name, size in zip(("height", "width"), original.image.shape, strict=False):
            if inputs.pop(name, size) != size:
                raise InvalidRequest(f"is for text-to-image; the image has {size}", name)
    inputs |= pictures
    check_limits(info, inputs, original.preview_size)
    return Request(
        model=info.name,
        inputs=MappingProxyType(inputs),
        lists=frozenset(name for name in inputs if name in info.parameters and info.parameters[name].is_list),
        height=original.height,
        width=original.width,
        count=_effective("num_images_per_prompt", inputs, info, task) or 1,
        deadline=seconds.deadline(options.get("deadline")),
        live=live,
        original=original,
        priority=_priority(options.get("priority")),
    )


def check_names(options: Mapping[str, object], info: ModelInfo) -> None:
    """Raises InvalidRequest naming the first option that neither this client nor the model knows."""
    of_the_model = [name for name in info.parameters if name != "prompt" and name not in OWN]
    for name in options:
        if name not in Options.__annotations__ and name not in of_the_model:
            known = ", ".join([*of_the_model, *CLIENT_OPTIONS])
            raise InvalidRequest(f"unknown option; known are {known}", name)


def _parameter(info: ModelInfo, name: str) -> Parameter:
    if name not in info.parameters:
        raise InvalidRequest(f"{info.name!r} does not take it", name)
    return info.parameters[name]


def _draws(seed: object) -> bool:
    """Whether it says, as other tools have it, that the server shall draw one."""
    return isinstance(seed, numbers.Integral) and int(seed) == -1


def _effective(name: str, inputs: Mapping[str, Array], info: ModelInfo, task: Task) -> int | None:
    """The value the server will use; None where absence has a meaning."""
    value = inputs[name][0] if name in inputs else info.default(name, task)
    return None if value is None else int(value)


def _pictures(
    info: ModelInfo,
    task: Task,
    image: Picture | Taken | None,
    mask: Picture | Taken | None,
    options: Options,
    inputs: Mapping[str, Array],
) -> tuple[dict[str, Array], Original]:
    """The inputs that pictures are, as far as the task has them, and what comes back is held against."""
    if task == "text_to_image":
        height, width = (_effective(side, inputs, info, task) or info.native_size for side in ("height", "width"))
        return {}, Original(height, width)
    if image is None:
        raise InvalidRequest("missing", "image")
    preview_size = _effective("preview_size", inputs, info, task)
    if task == "image_to_image":
        return of_image(info, image, preview_size)
    invert = bool(_effective("mask_invert", inputs, info, task))
    pixels = decoded(image, mask, options.get("alpha_means"), bool(options.get("fit_mask")), invert)
    return of_inpainting(info, *pixels, _effective("padding_mask_crop", inputs, info, task), preview_size)


def _priority(value: object) -> Priority | None:
    for known in get_args(Priority):
        if isinstance(value, str) and value == known:
            return cast(Priority, known)
    if value is None:
        return None
    raise InvalidRequest(f"{shortened(value)} is not one of {', '.join(get_args(Priority))}", "priority")
