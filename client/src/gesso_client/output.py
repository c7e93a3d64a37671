"""Where pictures are going to be written: everything that can be wrong with it, before anything was computed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image as PILImage

from gesso_client.decode import reason
from gesso_client.errors import InvalidRequest, shortened

PROBE = bytes(1 << 16)  # written and removed again; a full disk has no room for it
LEAST_SHARE = 8  # no file of ours is expected to be smaller than its levels by more than this


@dataclass(frozen=True)
class Format:
    """A kind of file, of those that gesso reads too. Others change what they are given, as GIF and ICO do."""

    name: str  # Pillow's
    longest: int  # pixels that a side may have
    alpha: bool
    # PNG and other lossless files keep the promise that unmasked pixels are unchanged; JPEG cannot, at any quality.
    options: Mapping[str, Any] = field(default_factory=dict)


_PNG = Format("PNG", 2**31 - 1, alpha=True)
_JPEG = Format("JPEG", 65_500, alpha=False, options={"quality": 95, "subsampling": 0})
_WEBP = Format("WEBP", 16_383, alpha=True, options={"lossless": True, "exact": True})
_TIFF = Format("TIFF", 2**31 - 1, alpha=True)
FORMATS = {
    **dict.fromkeys((".png", ".apng"), _PNG),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), _JPEG),
    ".webp": _WEBP,
    **dict.fromkeys((".tif", ".tiff"), _TIFF),
}


def format_of(path: Path) -> Format:
    """By the extension. Raises InvalidRequest naming `output`."""
    found = FORMATS.get(path.suffix.lower())
    PILImage.init()
    if found is None or found.name not in PILImage.SAVE:
        known = "PNG, JPEG, WebP or TIFF"
        raise InvalidRequest(f"{_named(path)} has no extension of a format that is written: {known}", "output")
    return found


def numbered(path: Path, index: int, count: int) -> Path:
    """out.png for one picture; out-0.png, out-1.png ... for several."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")


def check_fits(path: Path, size: tuple[int, int], *, alpha: bool = False) -> None:
    """Raises InvalidRequest for a picture (width, height) that the format or the disk cannot hold."""
    kind, (width, height) = format_of(path), size
    if max(size) > kind.longest:
        found = f"{width}x{height}, and a side of a {kind.name} has at most {kind.longest} pixels"
        raise InvalidRequest(f"the picture for {_named(path)} is {found}; write a PNG", "output")
    if alpha and not kind.alpha:
        text = f"the picture is transparent in places, and a {kind.name} cannot hold that; write a PNG"
        raise InvalidRequest(f"{_named(path)}: {text}", "output")
    with _refusing(path):
        free = shutil.disk_usage(place_of(path).parent).free
    if free < 3 * width * height // LEAST_SHARE:
        raise InvalidRequest(f"{_named(path)} does not fit: its disk has {free} bytes left", "output")


def check_place(path: Path) -> None:
    """Raises InvalidRequest where no file can be made; one is made there, and removed."""
    with _refusing(path):
        place = place_of(path)
        if place.is_dir():
            raise InvalidRequest(f"{_named(path)} is a folder", "output")
        if os.path.lexists(place):
            if not place.is_file():
                raise InvalidRequest(f"{_named(path)} is no regular file", "output")
            if not (place.stat().st_mode & 0o222 and os.access(place, os.W_OK)):
                raise InvalidRequest(f"{_named(path)} is read-only", "output")
        if not place.parent.is_dir():
            raise InvalidRequest(f"the folder {_named(path.parent)} does not exist", "output")
        with partial(place) as (file, _):
            file.write(PROBE)


def check_folder(folder: Path) -> None:
    """Make it where it is missing. Raises InvalidRequest where no file can be made in it."""
    with _refusing(folder):
        if folder.exists() and not folder.is_dir():
            raise InvalidRequest(f"{_named(folder)} is no folder", "output")
        folder.mkdir(parents=True, exist_ok=True)
        with partial(folder / "picture.png") as (file, _):
            file.write(PROBE)


def minds_case(folder: Path) -> bool:
    """Whether two names that differ in the case of letters only are two files there. Raises OSError."""
    with partial(folder / "picture.png") as (_, path):
        return not path.with_name(path.name.upper()).exists()


def check_spares(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises InvalidRequest for an output that is an input, under whatever name.

    So links of both kinds are seen, and names that a file system takes for the same: of other letter case, or of
    letters composed in another way.
    """
    known = {found: path for path in inputs if (found := _identity(path)) is not None}
    for output in outputs if known else ():
        found = _identity(output)
        if found in known:
            raise InvalidRequest(f"{_named(output)} is the input {_named(known[found])}; write elsewhere", "output")


def place_of(path: Path) -> Path:
    """The file itself, where a link points to it."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def partial(place: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `place`, and its path; removed at the end, unless it was renamed. Raises OSError."""
    path = place.with_name(f".gesso-{secrets.token_hex(6)}.part")  # short, for a name as long as one may be
    try:
        with path.open("xb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _named(path: Path) -> str:
    return shortened(str(path))


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"{_named(path)} cannot be written: {reason(error)}", "output") from error
