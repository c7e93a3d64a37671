"""PIL pictures of every state, and all else that may hold a picture."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from client.files import GREY, RGB, chunk, file_of, png_with
from gesso_client import GessoError, InvalidRequest
from gesso_client.pictures import image_pixels
from gesso_client.source import open_picture, take

PHOTO = np.random.default_rng(3).integers(0, 256, (480, 640, 3), np.uint8)


def pixels(picture: Any, **options: Any) -> np.ndarray:
    return image_pixels(open_picture(picture, "image"), **options)


def closed(picture: Image.Image) -> Image.Image:
    picture.close()
    return picture


def left(data: bytes, load: bool = False) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        if load:
            picture.load()
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        lambda: closed(Image.fromarray(RGB)),
        lambda: closed(Image.open(io.BytesIO(file_of(RGB)))),
        lambda: left(file_of(RGB, "JPEG")),
        lambda: left(file_of(RGB, "TIFF")),
    ],
    ids=["closed", "closed unread", "JPEG left", "TIFF left"],
)
def test_a_closed_picture_says_so(picture: Callable[[], Image.Image]) -> None:
    """Was a raw AssertionError or ValueError of Pillow's."""
    with pytest.raises(GessoError, match="is a PIL picture that was closed; hand it over before you close it"):
        open_picture(picture(), "image")


def test_a_picture_whose_file_was_closed_says_so() -> None:
    file = io.BytesIO(file_of(RGB))
    picture = Image.open(file)
    file.close()
    with pytest.raises(GessoError, match="was closed"):
        open_picture(picture, "image")
    with pytest.raises(GessoError, match="closed file"):
        open_picture(file, "image")


def test_a_loaded_picture_outlives_its_file(tmp_path: Path) -> None:
    assert np.array_equal(pixels(left(file_of(RGB), load=True)), RGB)
    path = tmp_path / "a.tif"
    path.write_bytes(file_of(RGB, "TIFF"))
    picture = Image.open(path)
    path.unlink()
    assert np.array_equal(pixels(picture), RGB)  # the open file is still there


def test_a_decoder_that_fails_is_the_pictures_fault_every_time() -> None:
    """Pillow raises once, and calls half a picture a whole one from then on."""
    whole = file_of(PHOTO)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for data in (whole[: len(whole) // 2], bytes(flipped), file_of(PHOTO, "JPEG")[:9000]):
        picture = Image.open(io.BytesIO(data))
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="cannot be decoded"):
                open_picture(picture, "image")


def test_whatever_a_foreign_decoder_raises_is_an_invalid_request() -> None:
    class Foreign(ImageFile.ImageFile):
        format = "PNG"

        def _open(self) -> None:
            self._size, self._mode = (9, 6), "RGB"

        def tell(self) -> int:
            return 1  # another frame, for which it is itself asked

        def load(self) -> Any:
            raise RuntimeError("out of order")

    with pytest.raises(InvalidRequest, match="cannot be decoded: out of order"):
        open_picture(Foreign(io.BytesIO(b"?")), "image")


def test_a_lazy_picture_with_damaged_metadata_behind_its_pixels_is_read() -> None:
    """python-pillow/Pillow#8363, of a picture that its caller opened."""
    data = png_with(chunk(b"zTXt", b"comment\0\0junk"), chunk(b"tEXt", b"c\0x", crc=3), last=True)
    assert np.array_equal(pixels(Image.open(io.BytesIO(data))), RGB)


def test_another_frame_or_a_draft_is_as_its_owner_left_it() -> None:
    frames = file_of(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    picture = Image.open(io.BytesIO(frames))
    assert np.array_equal(pixels(picture), RGB)
    picture.seek(1)
    assert np.array_equal(pixels(picture), 255 - RGB)
    draft = Image.open(io.BytesIO(file_of(PHOTO, "JPEG")))
    draft.draft("RGB", (160, 120))
    assert pixels(draft).shape == (120, 160, 3)


# What else may hold a picture


class Tensor:
    """As torch's: an array on request."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


class Interface:
    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self.array = array


class Capsule:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("kind", [Tensor, Interface, Capsule])
def test_tensors_are_arrays(kind: Any) -> None:
    assert np.array_equal(pixels(kind(RGB.copy())), RGB)
    for array, words in (
        (RGB.transpose(2, 0, 1).copy(), r"found \[3, 6, 9\]; with the channels first, pass its .transpose\(1, 2, 0\)"),
        (RGB / np.float32(255), r"found float32; of levels from 0 to 1 pass \(255 \* it\).round\(\)"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            open_picture(kind(array), "image")


def test_a_tensor_that_will_not_come_says_why() -> None:
    class OnDevice:
        def __array__(self) -> Any:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    with pytest.raises(InvalidRequest, match="image: cannot be read: can't convert cuda:0"):
        open_picture(OnDevice(), "image")


def test_files_are_read_from_their_beginning_and_left_where_they_stood(tmp_path: Path) -> None:
    written = io.BytesIO()
    Image.fromarray(RGB).save(written, "PNG")
    end = written.tell()
    assert np.array_equal(pixels(written), RGB)
    assert written.tell() == end
    path = tmp_path / "a.tif"
    path.write_bytes(file_of(RGB, "TIFF"))
    with path.open("rb") as file:
        assert np.array_equal(pixels(file), RGB)
    ends = os.pipe()
    with os.fdopen(ends[1], "wb") as sink:
        sink.write(file_of(RGB))
    with os.fdopen(ends[0], "rb") as pipe:
        assert np.array_equal(pixels(pipe), RGB)
    with pytest.raises(InvalidRequest, match="mode 'rb'"):
        open_picture(io.StringIO("text"), "image")
    assert np.array_equal(pixels(memoryview(file_of(RGB))), RGB)


CODED = base64.b64encode(file_of(PHOTO)).decode()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (CODED, "is base64 text"),
        (base64.b64encode(file_of(PHOTO, "JPEG")).decode(), "is base64 text"),
        (base64.encodebytes(file_of(GREY, "WEBP")).decode(), "is base64 text"),
        (CODED.encode(), "is base64 text"),
        (f"data:image/png;base64,{CODED}", "is a data: URL"),
        (f"data:image/png;base64,{CODED}".encode(), "is base64 text"),
        ("https://example.org/a.png?" + "x" * 9000, "is a URL; only files are read"),
        ("a.d/" * 4500, "cannot read 'a.d/a"),
        ("\0" * 9000, "cannot read"),
    ],
)
def test_text_that_is_no_path_makes_a_short_error(picture: Any, words: str) -> None:
    """A base64 string made an error of 4 MB."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        open_picture(picture, "image")
    assert len(str(caught.value)) < 400
    assert ("base64.b64decode" in str(caught.value)) is ("base64" in words or "data:" in words)


def test_taking_twice_is_taking_once() -> None:
    once = take(RGB, "image")
    assert take(once, "image") is once
