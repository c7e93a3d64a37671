"""What is not the picture may be damaged; what is must be whole; and no other decoder is tried."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from client.files import GREY, RGB, chunk, file_of, jpeg_with, named, png_with
from gesso_client import InvalidRequest
from gesso_client.formats import exif
from gesso_client.pictures import image_pixels, mask_pixels
from gesso_client.source import open_picture


def pixels(picture: Any, **options: Any) -> np.ndarray:
    return image_pixels(open_picture(picture, "image"), **options)


TURNED = Image.Exif()
TURNED[exif.ORIENTATION] = 6
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
LONG = b"comment\0" + b"x" * 2_000_000
BOMB = b"comment\0\0" + zlib.compress(b"x" * 80_000_000)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"eXIf", b"no TIFF at all"),
        chunk(b"eXIf", b""),
        chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
        chunk(b"tEXt", LONG),
        chunk(b"zTXt", BOMB),
        chunk(b"iTXt", b"comment\0\1\0\0\0" + b"no zlib stream"),
        chunk(b"iTXt", b"XML:com.adobe.xmp"),
        chunk(b"iTXt", b"\xff\xfe"),
        chunk(b"zTXt", b"Raw profile type exif\0\0junk"),
        chunk(b"tEXt", b"comment\0a checksum that is wrong", crc=1),
        chunk(b"iCCP", b"name\0\0" + zlib.compress(b"no profile")),
        chunk(b"iCCP", b"name\0\0no zlib stream"),
        chunk(b"iCCP", b"a name without an end"),
        chunk(b"gAMA", b"\0"),
        chunk(b"gAMA", b"\0\0\0\0"),
        chunk(b"cHRM", b"\0" * 32),
        chunk(b"cHRM", b"\1"),
        chunk(b"sRGB", b""),
        chunk(b"cICP", b"\xff\xff\xff\xff"),
        chunk(b"pHYs", b"\1"),
        chunk(b"tIME", b""),
        chunk(b"acTL", b"\0"),
        chunk(b"abCd", b"of nobody"),
    ],
    ids=lambda each: f"{each[4:8].decode()}-{len(each)}",
)
def test_damaged_metadata_is_no_reason_to_refuse_a_png(damaged: bytes, last: bool) -> None:
    """unsloth#10553 (an eXIf chunk that is no TIFF), python-pillow/Pillow#8363 (a text chunk of 2 MB)."""
    data = png_with(damaged, last=last)
    assert np.array_equal(pixels(data), RGB)
    assert np.array_equal(pixels(data + b"junk behind the end"), RGB)


@pytest.mark.parametrize(
    "damaged",
    [
        (0xE1, b"Exif\0\0no TIFF at all"),
        (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\2\2no first part"),
        (0xE2, b"ICC_PROFILE\0\1\1no profile"),
        (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        (0xED, b"Photoshop 3.0\x008BIM\xff\xff"),
        (0xEE, b"Adobe"),
        (0xE0, b"JFIF\0"),
        (0xFE, b"\xff\xfe a comment"),
    ],
    ids=lambda each: f"{each[0]:02X}-{each[1][:8].decode('latin-1')}",
)
@pytest.mark.filterwarnings("error")
def test_damaged_metadata_is_no_reason_to_refuse_a_jpeg(damaged: tuple[int, bytes]) -> None:
    """unsloth#10553; a phone's MPO with a damaged index made Pillow warn, which is an error where warnings are."""
    assert np.array_equal(pixels(jpeg_with(damaged)), pixels(jpeg_with()))


@pytest.mark.parametrize(
    "damaged", [b"EXIF\x04\0\0\0junk", b"XMP \x04\0\0\0<x:x", b"ICCP\x04\0\0\0junk", b"EXIF\xff\xff\xff\x7fcut"]
)
def test_damaged_metadata_is_no_reason_to_refuse_a_webp(damaged: bytes) -> None:
    simple = file_of(RGB, "WEBP", lossless=True)
    size = struct.pack("<II", 9 - 1, 6 - 1)
    extended = b"VP8X\x0a\0\0\0" + b"\x2c\0\0\0" + size[:3] + size[4:7]
    body = b"WEBP" + extended + simple[12:] + damaged
    assert np.array_equal(pixels(b"RIFF" + struct.pack("<I", len(body)) + body), RGB)


def test_orientations_that_can_be_read_are_applied_wherever_they_stand() -> None:
    upright, block = np.rot90(RGB, -1), TURNED.tobytes()
    hexed = b"\nexif\n      26\n" + block.hex().encode() + b"\n"
    for data in (
        png_with(chunk(b"eXIf", block.removeprefix(b"Exif\0\0"))),
        png_with(chunk(b"eXIf", block), last=True),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
        png_with(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed))),
        file_of(RGB, "WEBP", lossless=True, exif=TURNED),
        named(file_of(RGB, "TIFF", exif=TURNED)),
    ):
        assert np.array_equal(pixels(data), upright)
    for segment in ((0xE1, block), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)):
        assert np.array_equal(pixels(jpeg_with(segment)), np.rot90(pixels(jpeg_with()), -1))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_says_nothing(value: int) -> None:
    wrong = Image.Exif()
    wrong[exif.ORIENTATION] = value
    assert np.array_equal(pixels(file_of(RGB, exif=wrong)), RGB)


def test_damaged_pixels_are_refused() -> None:
    """A checksum is there to be looked at: Pillow does not, of the pixels of a PNG."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    whole = file_of(noise)
    flipped = bytearray(whole)
    flipped[whole.index(b"IDAT") + 4000] ^= 1
    keyed = file_of(Image.fromarray(RGB), transparency=(1, 2, 3)).replace(b"tRNS\0\1", b"tRNS\0\7")
    header = whole.replace(b"IHDR\0\0\0\x40", b"IHDR\0\0\0\x41")
    webp = file_of(noise, "WEBP", lossless=True)
    cut = [
        data[: int(len(data) * share)] for data in (whole, webp, file_of(noise, "JPEG")) for share in (0.02, 0.5, 0.9)
    ]
    for data in (bytes(flipped), keyed, header, *cut, named(file_of(noise, "TIFF")[:5000])):
        with pytest.raises(InvalidRequest, match="cannot be decoded"):
            open_picture(data, "image")


def test_a_palette_that_is_missing_is_damage_too() -> None:
    """Was a raw AssertionError of Pillow's."""
    data = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0\0"))
    for field, read in (("image", image_pixels), ("mask_image", lambda opened: mask_pixels(opened, (1, 1)))):
        with pytest.raises(InvalidRequest, match=f"{field}: mode P cannot be read"):
            read(open_picture(b"\x89PNG\r\n\x1a\n" + data, field))


def test_a_transparent_level_is_that_level_at_every_depth() -> None:
    """Forge Classic#1033: the level was ignored at 16 bits, and taken for one of 8 at 4."""

    def keyed(depth: int, rows: bytes, width: int, level: int) -> list[int]:
        header = struct.pack(">IIBBBBB", width, 1, depth, 0, 0, 0, 0)
        data = zlib.compress(b"\0" + rows)
        body = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", level)) + chunk(b"IDAT", data)
        return pixels(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))[0, :, 0].tolist()

    assert keyed(16, struct.pack(">3H", 0x1234, 0x1235, 0), 3, 0x1234) == [255, 18, 0]
    assert keyed(8, bytes([18, 19]), 2, 18) == [255, 19]
    assert keyed(4, bytes([0x21]), 2, 2) == [255, 17]
    assert keyed(2, bytes([0b01100000]), 2, 1) == [255, 170]
    assert keyed(1, bytes([0b01000000]), 2, 0) == [255, 255]
    assert keyed(4, bytes([0x21]), 2, 0xF2) == [255, 17]  # bits above the depth say nothing
    colour = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)) + chunk(b"tRNS", b"\1\2" * 3)
    with pytest.raises(InvalidRequest, match="16 bits is transparent"):
        open_picture(b"\x89PNG\r\n\x1a\n" + colour + chunk(b"IDAT", zlib.compress(b"\0" * 7)), "image")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def no_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    def ghostscript(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)


@pytest.mark.usefixtures("no_ghostscript")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (EPS, "it is PostScript"),
        (file_of(RGB, "GIF"), "it is GIF"),
        (file_of(RGB, "BMP"), "it is BMP"),
        (file_of(RGB, "JPEG2000"), "kind that is read"),
        (file_of(RGB, "TIFF"), "is a TIFF, which is read only from a file named .tif or .tiff"),
        (b"", "it is empty"),
    ],
)
def test_no_other_decoder_is_tried(data: bytes, words: str, tmp_path: Path) -> None:
    """An EPS named .png went to Ghostscript."""
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (data, path, named(data, "a.png")):
        with pytest.raises(InvalidRequest, match=words):
            open_picture(source, "image")
    (tmp_path / "a.tiff").write_bytes(data)
    if "TIFF" in words:
        assert np.array_equal(pixels(tmp_path / "a.tiff"), RGB)


@pytest.mark.usefixtures("no_ghostscript")
def test_a_pil_picture_of_another_format_is_for_its_owner_to_decode() -> None:
    with pytest.raises(InvalidRequest, match="is a EPS that was not decoded yet; call its load"):
        open_picture(Image.open(named(EPS)), "image")
    picture = Image.open(named(file_of(GREY, "BMP")))
    with pytest.raises(InvalidRequest, match="is a BMP that was not decoded yet"):
        open_picture(picture, "image")
    picture.load()
    assert np.array_equal(pixels(picture)[:, :, 0], GREY)


def test_a_phones_mpo_is_its_first_picture() -> None:
    data = file_of(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)], quality=100)
    with Image.open(named(data)) as picture:
        assert picture.format == "MPO"
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(pixels(data), expected)
    assert np.array_equal(pixels(Image.open(named(data))), expected)
