"""A picture of the command line that is going to be made: what is sent, and the files it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gesso_client.extras import NOTHING, Extras
from gesso_client.models import ModelInfo
from gesso_client.output import check_fits, check_place, check_spares, numbered
from gesso_client.request import Options, Task
from gesso_client.source import Taken, open_picture


@dataclass(frozen=True)
class Plan:
    outputs: tuple[Path, ...]
    image: Taken | None
    mask: Taken | None
    extras: Extras

    @classmethod
    def of(
        cls, info: ModelInfo, task: Task, output: Path, options: Options, image: Path | None, mask: Path | None
    ) -> Plan:
        """Read the pictures, and check all that can be wrong with the outputs. Raises InvalidRequest."""
        outputs = outputs_of(info, task, output, options)
        check_spares(outputs, [path for path in (image, mask) if path is not None])
        for path in outputs:
            check_place(path)
        if image is None:
            check_fits(output, _size(info, task, options))
            return cls(outputs, None, None, NOTHING)
        opened = open_picture(image, "image")
        check_fits(output, opened.size)
        photo, levels = Taken(opened), None if mask is None else Taken(open_picture(mask, "mask_image"))
        extras = Extras.of(photo, levels, options, inpaint=task == "inpaint")
        check_fits(output, opened.size, alpha=extras.transparent)
        return cls(outputs, photo, levels, extras)

    def output(self, index: int) -> Path:
        """Of that picture; a number that the server should not have used gets a name of its own, too."""
        if 0 <= index < len(self.outputs):
            return self.outputs[index]
        return numbered(self.outputs[0], index, 2)


def outputs_of(info: ModelInfo, task: Task, output: Path, options: Options) -> tuple[Path, ...]:
    """Of all pictures of the request. Raises InvalidRequest for a number of them that the model does not take."""
    name = "num_images_per_prompt"
    given = options.get("num_images_per_prompt")
    count = int(info.default(name, task) or 1) if given is None else given
    if name in info.parameters:
        info.parameters[name].check(count)
    return tuple(numbered(output, index, count) for index in range(count))


def _size(info: ModelInfo, task: Task, options: Options) -> tuple[int, int]:
    """(width, height) of a picture from text alone."""
    sides = (cast(int | None, options.get(side)) or info.default(side, task) for side in ("width", "height"))
    width, height = (side or info.native_size for side in sides)
    return width, height
