"""What a caller may hand over as a picture, and how it is taken out of the caller's hands."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from gesso_client import decode
from gesso_client.decode import READING, Encoded, Opened, reason
from gesso_client.errors import InvalidRequest, shortened


class SupportsArray(Protocol):
    """A tensor, such as torch's."""

    def __array__(self) -> npt.NDArray[Any]: ...


File = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|UklGR|R0lGOD)[A-Za-z0-9+/=\s_-]{40,}|[A-Za-z0-9+/=\s_-]{600,}")
_ADVICE = "pass base64.b64decode(...) of it, as bytes"


@dataclass(frozen=True)
class Taken:
    """A picture of which nothing is the caller's any more. An error waits in it for whoever opens it."""

    content: Opened | Encoded | Path | InvalidRequest


Picture = PILImage.Image | npt.NDArray[Any] | SupportsArray | File | Taken


def take(picture: object, field: str) -> Taken:
    """Decode a PIL picture, copy an array, read a file object: on this thread, now. Files and bytes are decoded later.

    field: the input that errors name. Raises nothing.
    """
    try:
        return picture if isinstance(picture, Taken) else Taken(_content(picture, field))
    except InvalidRequest as error:
        return Taken(error)
    except MemoryError as error:
        return Taken(InvalidRequest(f"is too large: {reason(error)}", field))
    except Exception as error:  # a PIL picture's decoder, a tensor, a file object: somebody else's code
        return Taken(InvalidRequest(f"cannot be read: {reason(error)}", field))


def taken(image: object, mask: object) -> tuple[Taken | None, Taken | None]:
    """Both pictures of a call, as far as it has them."""
    return None if image is None else take(image, "image"), None if mask is None else take(mask, "mask_image")


def open_picture(picture: object, field: str) -> Opened:
    """A Picture, or one that was taken, decoded and upright. Raises InvalidRequest naming `field`."""
    content = take(picture, field).content
    if isinstance(content, InvalidRequest):
        raise content
    if isinstance(content, Path):
        content = Encoded(_read(content, field), content.name)
    return decode.opened(content, field) if isinstance(content, Encoded) else content


def _content(picture: object, field: str) -> Opened | Encoded | Path:
    if isinstance(picture, PILImage.Image):
        return decode.from_pil(picture, field)
    if isinstance(picture, str | os.PathLike):
        if isinstance(picture, str):
            _refuse_text(picture, field)
        return Path(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        data = bytes(picture)
        head = data[:4096].decode("latin-1")
        if head.startswith("data:") or _BASE64.fullmatch(head):
            raise InvalidRequest(f"is base64 text, not a picture; {_ADVICE}", field)
        return Encoded(data)
    if callable(getattr(picture, "read", None)):
        with READING:
            return _from_file(picture, field)
    if isinstance(picture, np.ndarray):
        return _from_array(picture, field)
    if hasattr(picture, "__array__") or hasattr(picture, "__array_interface__"):
        return _from_array(np.asarray(picture), field)
    if hasattr(picture, "__dlpack__"):
        return _from_array(np.from_dlpack(picture), field)
    kind = type(picture).__name__
    raise InvalidRequest(f"expected a PIL image, an array, a path, bytes or a file, found {kind}", field)


def _refuse_text(text: str, field: str) -> None:
    """Raises InvalidRequest for a string that is no path by the look of it."""
    head = text[:4096]
    if head.startswith("data:"):
        raise InvalidRequest(f"is a data: URL ({shortened(text)}); of what follows its comma, {_ADVICE}", field)
    if re.match(r"[a-z]+://", head):
        raise InvalidRequest(f"{shortened(text)} is a URL; only files are read", field)
    if _BASE64.fullmatch(head) and not os.path.exists(head):
        raise InvalidRequest(f"is base64 text ({shortened(text)}); {_ADVICE}", field)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"cannot read {shortened(os.fspath(path))}: {reason(error)}", field) from error


def _from_file(file: Any, field: str) -> Encoded:
    """From its beginning, wherever it stands, as Pillow reads; it is left where it stood."""
    try:
        position = file.tell()
        file.seek(0)
    except (AttributeError, OSError):  # a pipe
        position = None
    data = file.read()
    if position is not None:
        file.seek(position)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidRequest("is a file of text; open it with mode 'rb'", field)
    name = getattr(file, "name", "")
    return Encoded(bytes(data), name if isinstance(name, str) else "")


def _from_array(array: npt.NDArray[Any], field: str) -> Opened:
    if field == "mask_image" and array.dtype == np.bool_:
        array = np.where(array, 255, 0).astype(np.uint8)
    elif array.dtype != np.uint8:
        hint = "; of levels from 0 to 1 pass (255 * it).round().astype('uint8')" if array.dtype.kind == "f" else ""
        raise InvalidRequest(f"expected an array of uint8 (0..255), found {array.dtype}{hint}", field)
    elif field == "mask_image" and array.size and array.max() == 1:
        raise InvalidRequest("holds only 0 and 1; pass an array of bool, or of 0 and 255", field)
    shape = list(array.shape)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; with the channels first, pass its .transpose(1, 2, 0) (torch: .permute)" if channels_first else ""
        raise InvalidRequest(f"expected shape [H, W], [H, W, 3] or [H, W, 4], found {shape}{hint}", field)
    if array.size == 0:
        raise InvalidRequest(f"has no pixel: shape {shape}", field)
    picture = PILImage.fromarray(np.array(array, order="C"))
    return Opened(picture, picture.size)
