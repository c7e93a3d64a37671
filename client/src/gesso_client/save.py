"""Pictures to files: whole or not at all, and never lost."""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from gesso_client.decode import reason
from gesso_client.events import Image
from gesso_client.extras import NOTHING, Extras
from gesso_client.output import format_of, partial, place_of

MOST_NAME = 100  # characters of a name that a rescued picture keeps


@dataclass(frozen=True)
class Saved:
    """A finished picture, and the file it is in."""

    picture: Image
    path: Path | None  # None: nothing could be written anywhere
    trouble: str = ""  # why it is in another file than it should be


def write_picture(image: PILImage.Image, path: Path, **metadata: Any) -> None:
    """Written beside `path` under a temporary name and renamed, so nobody ever sees half a picture. Raises OSError.

    metadata: `exif` and `icc_profile`, as Pillow takes them.
    """
    kind, place = format_of(path), place_of(path)
    with partial(place) as (file, written):
        image.save(file, format=kind.name, **kind.options, **metadata)
        file.flush()
        os.fsync(file.fileno())
        written.replace(place)


def save(picture: Image, path: Path, extras: Extras = NOTHING) -> Saved:
    """Write a finished picture; where that fails, as PNG in the folder for temporary files, or in the current one."""
    try:
        dressed, metadata = extras.on(picture.image, format_of(path))
        write_picture(dressed, path, **metadata)
        return Saved(picture, path)
    except Exception as error:  # whatever it is, the picture is finished
        trouble = error
    name = f"gesso-{path.stem[:MOST_NAME]}-{secrets.token_hex(4)}.png"
    for folder in (tempfile.gettempdir, os.getcwd):
        try:
            elsewhere = Path(folder(), name)
            write_picture(picture.image, elsewhere)
        except OSError:
            continue
        return Saved(picture, elsewhere, f"{path} cannot be written ({reason(trouble)}); the picture is in {elsewhere}")
    return Saved(picture, None, f"{path} cannot be written ({reason(trouble)}), nor any other file: it is lost")
