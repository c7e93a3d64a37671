"""What levels mean is what their profile does to them, whatever it is called."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from client.files import GREY, RGB, chunk, file_of, png_with
from gesso_client import InvalidRequest
from gesso_client.pictures import image_pixels
from gesso_client.profile import SRGB_CURVE, SRGB_PRIMARIES, _curve, _icc, _rgb_profile
from gesso_client.source import open_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def made(primaries: tuple[float, ...], curve: tuple[float, ...]) -> bytes:
    return _rgb_profile(primaries, _curve(curve))


def sampled(count: int) -> bytes:
    """sRGB's curve as a table (ICC's curveType)."""
    x = np.linspace(0, 1, count)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return struct.pack(f">4s4xI{count}H", b"curv", count, *np.round(65535 * linear).astype(int).tolist())


def grey_profile(curve: tuple[float, ...]) -> bytes:
    return _icc(b"GRAY", {"kTRC": _curve(curve)})


LINEAR = made(SRGB_PRIMARIES, (1.0,))
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def pixels(picture: Any) -> np.ndarray:
    return image_pixels(open_picture(picture, "image"))


def called(profile: bytes, name: str) -> bytes:
    """The profile with a description (ICC's v2 type), wherever it is looked for."""
    text = name.encode() + b"\0"
    body = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79
    body += b"\0" * (-len(body) % 4)
    count = struct.unpack_from(">I", profile, 128)[0]
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(count)]
    entries = [(kind, at + 12, size) for kind, at, size in entries if kind != b"desc"]
    moved = 12 * (count - len(entries))  # a description that was there leaves its place in the table
    entries = [(kind, at - moved, size) for kind, at, size in entries]
    tail = profile[132 + 12 * count :]
    entries.append((b"desc", 132 + 12 * (len(entries) + 1) + len(tail), len(body)))
    table = struct.pack(">I", len(entries)) + b"".join(struct.pack(">4sII", *entry) for entry in entries)
    whole = profile[:128] + table + tail + body
    named = struct.pack(">I", len(whole)) + whole[4:]
    assert name in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(named)))
    return named


def encoded(levels: np.ndarray) -> np.ndarray:
    """Linear levels in sRGB's curve (IEC 61966-2-1)."""
    x = levels / 255
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["sRGB (linear)", "Linear sRGB IEC61966-2.1", "linear"])
def test_a_linear_picture_is_not_read_as_srgb_whatever_its_profile_is_called(name: str) -> None:
    """obs-studio#4890: the whole picture came back far darker."""
    found = pixels(file_of(RGB, icc_profile=called(LINEAR, name)))
    assert abs(found - encoded(RGB)).max() <= 2
    assert abs(pixels(file_of(RGB, "WEBP", lossless=True, icc_profile=LINEAR)) - encoded(RGB)).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [
        SRGB,
        called(SRGB, "c2"),
        called(SRGB, "Display"),
        made(SRGB_PRIMARIES, SRGB_CURVE),
        made((0.31269, 0.32899, 0.63999, 0.33001, 0.3, 0.6, 0.15, 0.05999), SRGB_CURVE),  # as Photoshop rounds
        _rgb_profile(SRGB_PRIMARIES, sampled(1024)),  # as HP's has it
        _rgb_profile(SRGB_PRIMARIES, sampled(26)),
    ],
    ids=["lcms", "c2", "display", "version 4", "rounded", "table", "short table"],
)
def test_what_is_srgb_by_its_values_is_untouched(profile: bytes) -> None:
    """Converting sRGB to sRGB could only move levels by a rounding error, outside the mask too."""
    cube = np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), axis=-1).reshape(52, -1, 3)
    assert np.array_equal(pixels(file_of(cube, icc_profile=profile)), cube)


def test_another_curve_or_other_primaries_are_converted() -> None:
    for profile in (
        made(SRGB_PRIMARIES, (2.2,)),
        made(SRGB_PRIMARIES, (1.8,)),
        called(made(P3, SRGB_CURVE), "sRGB"),
    ):
        assert not np.array_equal(pixels(file_of(RGB, icc_profile=profile)), RGB)
    red = pixels(file_of(Image.new("RGB", (1, 1), (200, 0, 0)), icc_profile=made(P3, SRGB_CURVE)))[0, 0]
    assert abs(red.astype(int) - [218, 0, 0]).max() <= 2  # Display P3's, CSS Color 4: clipped


def test_a_profile_of_another_colour_space_is_none() -> None:
    grey = grey_profile((1.0,))
    assert np.array_equal(pixels(file_of(RGB, icc_profile=grey)), RGB)
    assert np.array_equal(pixels(file_of(GREY, icc_profile=LINEAR))[:, :, 0], GREY)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(pixels(file_of(RGB, icc_profile=lab)), RGB)
    assert np.array_equal(pixels(file_of(GREY, icc_profile=lab))[:, :, 0], GREY)


def test_grey_profiles_are_by_their_curve_too() -> None:
    assert np.array_equal(pixels(file_of(GREY, icc_profile=grey_profile(SRGB_CURVE)))[:, :, 0], GREY)
    found = pixels(file_of(GREY, icc_profile=grey_profile((1.0,))))
    assert abs(found[:, :, 0] - encoded(GREY)).max() <= 2
    assert np.array_equal(found, np.dstack([found[:, :, 0]] * 3))
    translucent = np.dstack([GREY, np.full_like(GREY, 255)])
    assert np.array_equal(pixels(file_of(Image.fromarray(translucent, "LA"), icc_profile=grey_profile((1.0,)))), found)


def gamma(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chromaticity(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in values)))


def test_a_pngs_own_chunks_are_heard() -> None:
    """obs-studio#4890, of a PNG that says so without a profile."""
    assert abs(pixels(png_with(gamma(100000))) - encoded(RGB)).max() <= 2
    grey = pixels(png_with(gamma(100000), picture=GREY))
    assert abs(grey[:, :, 0] - encoded(GREY)).max() <= 2
    loaded = Image.open(io.BytesIO(png_with(gamma(100000))))
    loaded.load()
    assert np.array_equal(pixels(loaded), pixels(png_with(gamma(100000))))
    p3 = pixels(file_of(RGB, icc_profile=made(P3, SRGB_CURVE))).astype(int)
    assert abs(pixels(png_with(chromaticity(*P3), gamma(45455))) - p3).max() <= 1
    assert abs(pixels(png_with(chunk(b"cICP", bytes([12, 13, 0, 1])))) - p3).max() <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        (gamma(45455),),
        (gamma(45000), chromaticity(*SRGB_PRIMARIES)),
        (chromaticity(*SRGB_PRIMARIES),),
        (chunk(b"sRGB", b"\0"), gamma(100000)),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), gamma(100000)),
        (chunk(b"cICP", bytes([1, 1, 0, 1])),),
        (chunk(b"cICP", bytes([2, 2, 0, 1])),),
        (gamma(0),),
    ],
    ids=["gamma", "gamma and primaries", "primaries", "sRGB first", "cICP first", "BT.709", "unspecified", "no gamma"],
)
def test_a_png_that_says_srgb_or_nothing_is_untouched(chunks: tuple[bytes, ...]) -> None:
    assert np.array_equal(pixels(png_with(*chunks)), RGB)


def test_a_profile_goes_before_the_chunks() -> None:
    data = png_with(gamma(100000), picture=Image.open(io.BytesIO(file_of(RGB, icc_profile=SRGB))))
    assert np.array_equal(pixels(data), RGB)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_levels_are_refused(transfer: int) -> None:
    """Their white is anybody's guess, as that of floating point levels is."""
    with pytest.raises(InvalidRequest, match="holds HDR levels"):
        pixels(png_with(chunk(b"cICP", bytes([9, transfer, 0, 1]))))
