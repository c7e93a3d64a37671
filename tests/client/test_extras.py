"""The file that is written keeps the photograph's transparency, colour profile and EXIF."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from client.command_line import IMAGE, MASK, gesso
from gesso_client.formats import exif
from gesso_client.profile import PRIMARIES, SRGB_CURVE, SRGB_PRIMARIES, _curve, _rgb_profile

ONE = "inpaint photo.png --mask mask.png --prompt cat -o"
P3 = _rgb_profile(PRIMARIES[12], _curve(SRGB_CURVE))
SRGB = _rgb_profile(SRGB_PRIMARIES, _curve(SRGB_CURVE))
ALPHA = np.linspace(0, 255, IMAGE[:, :, 0].size).astype(np.uint8).reshape(IMAGE.shape[:2])
INSIDE = MASK > 0


def exif_of(orientation: int, size: tuple[int, int], thumbnail: bytes = b"") -> bytes:
    """A camera's block, as Pillow writes it and with a thumbnail behind it."""
    block = Image.Exif()
    block[exif.ORIENTATION], block[0x010F], block[0x0100] = orientation, "Kamera", size[0]
    details = block.get_ifd(0x8769)
    details[0xA002], details[0xA003], details[0x829A] = *size, 0.01
    data = bytearray(block.tobytes())
    if not thumbnail:
        return bytes(data)
    tiff = 6
    order = "<" if data[tiff : tiff + 2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", data, tiff + 4)
    (count,) = struct.unpack_from(f"{order}H", data, tiff + first)
    second = len(data) - tiff
    struct.pack_into(f"{order}I", data, tiff + first + 2 + 12 * count, second)
    place = second + 2 + 24 + 4
    entries = struct.pack(f"{order}HHII", 0x0201, 4, 1, place) + struct.pack(
        f"{order}HHII", 0x0202, 4, 1, len(thumbnail)
    )
    return bytes(data) + struct.pack(f"{order}H", 2) + entries + bytes(4) + thumbnail


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.tif"])
def test_transparency_is_the_photographs_own_and_what_is_repainted_is_opaque(here: Path, name: str) -> None:
    Image.fromarray(np.dstack([IMAGE, ALPHA])).save("photo.png")
    assert gesso(f"{ONE} {name}")[0] == 0
    found = np.asarray(Image.open(name))
    assert np.array_equal(found[~INSIDE], np.dstack([IMAGE, ALPHA])[~INSIDE])  # the colours under it, too
    assert (found[INSIDE][:, 3] == 255).all()
    over_white = np.asarray(Image.alpha_composite(Image.new("RGBA", (30, 20), "white"), Image.open("photo.png")))
    assert abs(found[INSIDE][:, :3].astype(int) - (255 - over_white[INSIDE][:, :3])).max() <= 1


def test_alpha_that_is_the_mask_is_no_transparency(here: Path) -> None:
    Image.fromarray(np.dstack([IMAGE, MASK])).save("photo.png")
    assert gesso("inpaint photo.png --alpha-means repaint --prompt cat -o out.jpg")[0] == 0
    assert gesso("inpaint photo.png --alpha-means repaint --prompt cat -o out.png")[0] == 0
    with Image.open("out.png") as picture:
        assert picture.mode == "RGB"


def test_a_picture_varied_as_a_whole_is_opaque(here: Path) -> None:
    Image.fromarray(np.dstack([IMAGE, ALPHA])).save("photo.png")
    assert gesso("transform photo.png --prompt cat -o out.png")[0] == 0
    with Image.open("out.png") as picture:
        assert picture.mode == "RGB"


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.tif"])
def test_a_profile_is_kept_with_the_levels_it_is_for(here: Path, name: str) -> None:
    Image.fromarray(IMAGE).save("photo.png", icc_profile=P3)
    code, transport = gesso(f"{ONE} {name}")
    picture = Image.open(name)
    assert (code, picture.info["icc_profile"]) == (0, P3)
    found = np.asarray(picture)
    assert np.array_equal(found[~INSIDE], IMAGE[~INSIDE])
    profile = ImageCms.ImageCmsProfile(io.BytesIO(P3))
    seen = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    sent = transport.requests[0].inputs["image"]
    assert not np.array_equal(sent, IMAGE)  # it does move colours
    assert abs(np.asarray(seen)[INSIDE].astype(int) - (255 - sent)[INSIDE]).max() <= 3


def test_a_profile_that_is_srgb_and_one_with_transparency(here: Path) -> None:
    Image.fromarray(IMAGE).save("photo.png", icc_profile=SRGB)
    assert gesso(f"{ONE} out.png")[0] == 0
    with Image.open("out.png") as picture:
        assert picture.info["icc_profile"] == SRGB
        assert np.array_equal(np.asarray(picture), np.where(INSIDE[:, :, None], 255 - IMAGE, IMAGE))
    Image.fromarray(np.dstack([IMAGE, ALPHA])).save("photo.png", icc_profile=P3)
    assert gesso(f"{ONE} out.png")[0] == 0
    with Image.open("out.png") as picture:
        assert picture.info["icc_profile"] == P3
        assert np.array_equal(np.asarray(picture)[~INSIDE], np.dstack([IMAGE, ALPHA])[~INSIDE])
    assert gesso("transform photo.png --prompt cat -o out.jpg")[0] == 0
    with Image.open("out.jpg") as picture:
        assert picture.info["icc_profile"] == P3


@pytest.mark.parametrize(
    "profile", [b"no profile", P3[:200], ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_a_profile_that_is_none_is_left_out(here: Path, profile: bytes) -> None:
    Image.fromarray(IMAGE).save("photo.png", icc_profile=profile)
    assert gesso(f"{ONE} out.png")[0] == 0
    with Image.open("out.png") as picture:
        assert "icc_profile" not in picture.info


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.webp", "out.tif"])
def test_exif_is_kept_for_a_picture_that_is_upright_and_has_no_thumbnail(here: Path, name: str) -> None:
    thumbnail = b"\xff\xd8 a small picture of what was there before \xff\xd9"
    tall = Image.fromarray(IMAGE).transpose(Image.Transpose.ROTATE_90)  # as the camera stored it, 20x30
    tall.save("photo.png", exif=exif_of(6, (20, 30), thumbnail))
    assert thumbnail in Path("photo.png").read_bytes()
    assert gesso(f"{ONE} {name}")[0] == 0
    with Image.open(name) as picture:
        assert picture.size == (30, 20)
        kept = picture.getexif()
        details = kept.get_ifd(0x8769)
        assert (kept.get(exif.ORIENTATION, 1), kept[0x010F].rstrip("\0")) == (1, "Kamera")
        assert (details[0xA002], details[0xA003], float(details[0x829A])) == (30, 20, 0.01)
        assert not kept.get_ifd(1)
    assert b"a small picture" not in Path(name).read_bytes()


def test_the_tags_of_a_tiff_are_its_exif(here: Path) -> None:
    tall = Image.fromarray(IMAGE).transpose(Image.Transpose.ROTATE_90)
    tall.save("photo.tif", exif=exif_of(6, (20, 30)), icc_profile=P3)
    for name in ("out.png", "out.tif"):
        assert gesso(f"{ONE.replace('photo.png', 'photo.tif')} {name}")[0] == 0
        with Image.open(name) as picture:
            kept = picture.getexif()
            assert (picture.size, picture.info["icc_profile"]) == ((30, 20), P3)
            assert (kept.get(exif.ORIENTATION, 1), kept[0x010F].rstrip("\0")) == (1, "Kamera")
            assert kept.get_ifd(0x8769)[0xA002] == 30
            if name == "out.png":
                assert not set(exif.STRUCTURE) & set(kept)
            assert np.array_equal(np.asarray(picture)[~INSIDE], IMAGE[~INSIDE])


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"junk", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff", None]
)
def test_exif_that_cannot_be_read_is_left_out(block: object) -> None:
    assert exif.upright(block, (30, 20)) == b""


@pytest.mark.parametrize("cut", range(6, 300, 7))
def test_exif_cut_anywhere_costs_nothing_but_itself(here: Path, cut: int) -> None:
    Image.fromarray(IMAGE).save("photo.png", exif=exif_of(1, (30, 20), b"small")[:cut])
    for name in ("out.png", "out.jpg"):
        assert gesso(f"{ONE} {name}")[0] == 0
        with Image.open(name) as picture:
            assert picture.size == (30, 20)


def test_exif_too_large_for_a_jpeg_is_left_out(here: Path) -> None:
    block = Image.Exif()
    block[0x010E] = "x" * 70_000
    Image.fromarray(IMAGE).save("photo.png", exif=block.tobytes())
    assert gesso(f"{ONE} out.jpg")[0] == 0
    assert gesso(f"{ONE} out.png")[0] == 0
    with Image.open("out.png") as picture:
        assert len(picture.getexif()[0x010E]) >= 70_000


def test_a_folder_keeps_them_too(here: Path) -> None:
    for name in ("photos", "masks"):
        Path(name).mkdir()
    Image.fromarray(np.dstack([IMAGE, ALPHA])).save("photos/a.png", icc_profile=P3, exif=exif_of(1, (30, 20)))
    Image.fromarray(MASK).save("masks/a.png")
    assert gesso("inpaint photos --masks masks --prompt cat -o out")[0] == 0
    with Image.open("out/a.png") as picture:
        assert (picture.mode, picture.info["icc_profile"], picture.getexif()[0x010F].rstrip("\0")) == (
            "RGBA",
            P3,
            "Kamera",
        )
