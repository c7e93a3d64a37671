"""A diffusion request, validated once against the bundle's bounds and never edited afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from gesso_backend.arrays import Arrays, Pixels
from gesso_backend.errors import InvalidRequest, NotFound
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.samplers.names import nearest
from gesso_backend.model import wire
from gesso_backend.model.parameters import PARAMETERS, Parameters
from gesso_backend.model.pictures import SIDES

Task = Literal["inpaint", "image_to_image", "text_to_image"]


@dataclass(frozen=True, kw_only=True)
class Request(Parameters):
    """What the client asked for, every default filled in: the parameters of the table, and the pictures."""

    task: Task
    image: Pixels | None  # [H, W, 3] sRGB; a piece where there is a picture_size, which height and width are then
    mask_image: Pixels | None  # [H, W]; 255 repaints, 0 keeps

    @property
    def offset(self) -> tuple[int, ...]:
        """(top, left) of the image in the picture."""
        return self.picture_offset or (0, 0)

    def effective(self, taken: Collection[str]) -> dict[str, Any]:
        """The parameters as they were used, for the report; taken: those that the model takes."""
        used: dict[str, Any] = {"task": self.task}
        for name, row in PARAMETERS.items():
            value = getattr(self, name)
            had = row.needs is None or getattr(self, row.needs) is not None
            if name in taken and had and (row.report == "always" or (row.report == "set" and value not in (None, 0))):
                used[name] = value
        return used


def parse(inputs: Arrays, bundle: DiffusionBundle, draw_seed: Callable[[], int] | None = None) -> Request:
    """Validate the wire's tensors. Raises InvalidRequest or NotFound naming the field."""
    try:
        values = wire.read(inputs, bundle.parameters)
    except NotFound as error:
        raise _with_nearest(error, inputs, bundle) from None
    image, mask = values["image"], values["mask_image"]
    task: Task = "text_to_image" if image is None else "image_to_image" if mask is None else "inpaint"
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
        values["height"], values["width"] = values["picture_size"] or image.shape[:2]
    elif values["height"] * values["width"] > bundle.size.max_pixels:
        raise InvalidRequest("height", f"height * width is above the maximum of {bundle.size.max_pixels} pixels")
    if values["strength"] == 0:
        raise InvalidRequest("strength", "0 would leave no step to run")
    if values["require_native"] and not bundle.native_inpainting:
        raise InvalidRequest("require_native", "not an inpainting model: it would blend, as plain models do")
    if values["seed"] is None:
        values["seed"] = (draw_seed or (lambda: secrets.randbits(32)))()
    largest = bundle.parameters["seed"].maximum
    if largest is not None and values["seed"] > largest - values["num_images_per_prompt"]:
        raise InvalidRequest("seed", "seed + num_images_per_prompt is too large")
    return Request(task=task, **values)


def _with_nearest(error: NotFound, inputs: Arrays, bundle: DiffusionBundle) -> NotFound:
    """The refusal of a sampler's name, with the nearest one."""
    sent = inputs[error.field or ""].flat[0]
    name = sent.decode("utf-8") if isinstance(sent, bytes) else str(sent)
    guess = nearest(name, bundle.parameters["scheduler"].choices or ()) if error.field == "scheduler" else None
    return NotFound(error.field or "", f"{error.text}; did you mean {guess!r}?") if guess else error
