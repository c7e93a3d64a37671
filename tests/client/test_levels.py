"""Levels that are not of 8 bits, and those that never came: dark, inverted or black pictures, made in silence."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from client.files import RGB, chunk, file_of, named
from gesso_client import InvalidRequest
from gesso_client.pictures import image_pixels, mask_pixels
from gesso_client.source import open_picture

ADAM7 = ((2, 1), (1, 1), (3, 1), (2, 2), (5, 1), (4, 3), (9, 3))  # columns and rows of each pass of 9 x 6 pixels
GREY_16 = np.arange(0, 60_000, 1000, np.uint16).reshape(6, 10)


def tiff(rows: bytes, photometric: int, bits: int, sample_format: int = 1) -> bytes:
    """A little-endian grey TIFF of 10 x 6 pixels in one strip."""
    tags = [(256, 10), (257, 6), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, 6)]
    tags += [(279, len(rows)), (339, sample_format)]
    begin = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, begin if tag == 273 else value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + rows


def grey(data: bytes) -> np.ndarray:
    """Of the file, which is the same as of the PIL picture of it."""
    found = image_pixels(open_picture(named(data), "image"))
    assert np.array_equal(found, image_pixels(open_picture(Image.open(named(data)), "image")))
    return found[:, :, 0]


def test_white_that_is_zero_is_white_at_16_bits_too() -> None:
    """Pillow turns such a TIFF of a scanner round at 1 to 8 bits, and leaves its negative at 16."""
    expected = np.rint(255 - GREY_16 / 257).astype(np.uint8)
    assert np.array_equal(grey(tiff(GREY_16.tobytes(), 0, 16)), expected)
    assert np.array_equal(grey(tiff(GREY_16.tobytes(), 1, 16)), 255 - expected)


def test_levels_of_12_bits_are_as_bright_as_they_are() -> None:
    """Pillow reads them as the lowest of 16 bits: a sixteenth of the brightness."""
    levels = np.arange(0, 4080, 68).reshape(6, 10)
    rows = b"".join((int(first) << 12 | int(second)).to_bytes(3, "big") for first, second in levels.reshape(-1, 2))
    assert np.array_equal(grey(tiff(rows, 1, 12)), np.rint(levels * 255 / 4095))


@pytest.mark.parametrize(("kind", "sample_format"), [("<i2", 2), ("<u4", 1), ("<i4", 2)])
def test_signed_and_32_bit_levels_of_a_tiff_are_refused(kind: str, sample_format: int) -> None:
    """Those below 65,536 were taken for levels of 16 bits."""
    levels = (GREY_16 // 2).astype(kind)
    with pytest.raises(InvalidRequest, match="signed or of 32 bits"):
        open_picture(named(tiff(levels.tobytes(), 1, 8 * levels.itemsize, sample_format)), "image")


@pytest.mark.parametrize("field", ["image", "mask_image"])
def test_32_bit_levels_that_can_only_be_of_8_bits_are_refused(field: str) -> None:
    """`Image.fromarray` of int32 levels up to 255 was read as an almost black picture."""
    opened = open_picture(Image.fromarray(np.full((4, 4), 255, np.int32)), field)
    with pytest.raises(InvalidRequest, match=rf"{field}: .* highest is 255; .*convert\('L'\)"):
        image_pixels(opened) if field == "image" else mask_pixels(opened, (4, 4))
    black = Image.fromarray(np.zeros((4, 4), np.int32))
    assert not image_pixels(open_picture(black, "image")).any()


def png(rows: bytes, *, height: int = 6, interlaced: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, height, 8, 2, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_png_whose_pixels_end_early_is_refused() -> None:
    """Checksums and stream are in order, rows are missing: Pillow gives black for them."""
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    seven = b"".join(b"\0" + bytes(3 * columns) for columns, count in ADAM7 for _ in range(count))
    assert np.array_equal(image_pixels(open_picture(png(rows), "image")), RGB)
    for whole in (png(bytes(len(rows))), png(seven, interlaced=1)):  # black, which is not missing
        assert not image_pixels(open_picture(whole, "image")).any()
    for cut in (png(rows[:-28]), png(rows[:-1]), png(seven[:-1], interlaced=1)):
        for picture in (cut, Image.open(named(cut, "a.png"))):
            with pytest.raises(InvalidRequest, match="file is truncated"):
                open_picture(picture, "image")


def test_a_black_png_of_any_mode_is_whole() -> None:
    """Those that end in zeros are looked at twice."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        for height in (1, 2, 7):
            assert open_picture(file_of(Image.new(mode, (13, height))), "image").size == (13, height)
