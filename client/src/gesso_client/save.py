"""Pictures to files: whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from gesso_client.errors import InvalidRequest

# PNG and other lossless formats keep the promise that unmasked pixels are unchanged; JPEG cannot, whatever its quality.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}


def format_of(path: Path) -> str:
    """Pillow's format for the extension. Raises InvalidRequest naming `output`."""
    name = PILImage.registered_extensions().get(path.suffix.lower())
    if name is None or name not in PILImage.SAVE:
        raise InvalidRequest(f"{str(path)!r} has no extension of a format Pillow writes, such as .png", "output")
    return name


def check_output(path: Path) -> None:
    """Everything that can be wrong with an output before anything was computed. Raises InvalidRequest."""
    format_of(path)
    if path.is_dir():
        raise InvalidRequest(f"{str(path)!r} is a folder", "output")
    if not path.parent.is_dir():
        raise InvalidRequest(f"the folder {str(path.parent)!r} does not exist", "output")


def numbered(path: Path, index: int, count: int) -> Path:
    """out.png for one picture; out-0.png, out-1.png ... for several."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")


def write_picture(image: PILImage.Image, path: Path) -> None:
    """Written beside `path` under a temporary name and renamed, so nobody ever sees half a picture. Raises OSError."""
    name = format_of(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            image.save(file, format=name, **SAVE_OPTIONS.get(name, {}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
