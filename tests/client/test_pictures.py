"""Every kind of picture becomes 8-bit sRGB by one rule, and every kind of mask one channel."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from client.files import GREY, RGB, RNG, file_of, named
from gesso_client import InvalidRequest
from gesso_client.pictures import image_pixels, mask_pixels
from gesso_client.source import open_picture


def pixels(picture: Any, **options: Any) -> np.ndarray:
    return image_pixels(open_picture(picture, "image"), **options)


def levels(picture: Any, size: tuple[int, int] = (9, 6), **options: Any) -> np.ndarray:
    return mask_pixels(open_picture(picture, "mask_image"), size, **options)


def refused(words: str, call: Any, *args: Any, **options: Any) -> str | None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        call(*args, **options)
    return caught.value.field


def test_an_8_bit_rgb_picture_is_untouched_from_every_source(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(file_of(Image.fromarray(RGB)))
    for source in (RGB, Image.fromarray(RGB), path, str(path), path.read_bytes(), RGB[::-1][::-1]):
        assert np.array_equal(pixels(source), RGB)


def test_grey_and_bilevel_pictures_are_repeated_in_three_channels() -> None:
    assert np.array_equal(pixels(GREY), np.dstack([GREY] * 3))
    assert np.array_equal(pixels(GREY[:, :, None]), np.dstack([GREY] * 3))
    bilevel = Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)).convert("1")
    assert set(np.unique(pixels(bilevel))) == {0, 255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1]}
    upright |= {5: RGB.swapaxes(0, 1), 6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).swapaxes(0, 1), 8: np.rot90(RGB)}
    assert np.array_equal(pixels(file_of(Image.fromarray(RGB), exif=exif)), upright[orientation])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_is_no_reason_to_refuse_a_photograph() -> None:
    assert pixels(file_of(Image.fromarray(RGB), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffjunk")).shape == RGB.shape


def test_16_bit_levels_are_scaled_not_clipped() -> None:
    """Pillow's own convert("L") clips: everything above 255 becomes white."""
    wide = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 254, 255, 255]
    assert pixels(file_of(Image.fromarray(wide)))[0, :, 0].tolist() == expected
    assert pixels(named(file_of(Image.fromarray(wide), "TIFF")))[0, :, 0].tolist() == expected
    assert pixels(Image.fromarray(wide.astype(np.int32)))[0, :, 0].tolist() == expected
    assert levels(Image.fromarray(wide), (8, 1))[0].tolist() == expected


def test_levels_of_unknown_range_are_refused() -> None:
    assert refused("32-bit", pixels, Image.fromarray(np.array([[70000]], np.int32))) == "image"
    assert refused("floating point", pixels, Image.fromarray(np.zeros((2, 2), np.float32))) == "image"
    assert refused("floating point", levels, Image.fromarray(np.zeros((2, 2), np.float32))) == "mask_image"


def test_a_palette_is_looked_up_with_its_transparency() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert pixels(file_of(picture)).tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert pixels(file_of(picture, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_transparency_is_composited_over_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]
    for source in (rgba, file_of(Image.fromarray(rgba)), named(file_of(Image.fromarray(rgba), "TIFF"))):
        assert pixels(source).tolist() == expected
    assert pixels(rgba, drop_alpha=True).tolist() == rgba[:, :, :3].tolist()
    grey = Image.fromarray(np.array([[[40, 255], [40, 0]]], np.uint8), "LA")
    assert pixels(grey)[:, :, 0].tolist() == [[40, 255]]
    keyed = file_of(Image.fromarray(np.array([[40, 41]], np.uint8)), transparency=41)
    assert pixels(keyed)[:, :, 0].tolist() == [[40, 255]]


def test_cmyk_without_a_profile_is_converted() -> None:
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    assert pixels(Image.fromarray(cmyk, "CMYK")).tolist() == [[[255, 255, 255], [0, 255, 255], [0, 0, 0]]]
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = pixels(file_of(flat, "JPEG", quality=100))[8, 8].astype(int)
    assert abs(red - [255, 0, 0]).max() <= 3


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# sRGB by name, with the red and the blue primary exchanged, so that a conversion cannot be missed.
SWAPPED = SRGB.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")


def test_an_embedded_profile_is_converted_to_srgb() -> None:
    red = pixels(file_of(Image.new("RGB", (2, 2), (255, 0, 0)), icc_profile=SWAPPED))[0, 0].astype(int)
    assert abs(red - [0, 0, 255]).max() <= 2
    translucent = pixels(file_of(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), icc_profile=SWAPPED))
    assert translucent.min() == 255  # the white underneath is ours, not the profile's
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    white = pixels(named(file_of(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF", icc_profile=lab)))
    assert white.min() >= 254


@pytest.mark.parametrize("profile", [b"junk", b"\0" * 200])
def test_a_broken_profile_is_ignored(profile: bytes) -> None:
    assert np.array_equal(pixels(file_of(Image.fromarray(RGB), icc_profile=profile)), RGB)


def test_a_profile_for_other_channels_is_ignored() -> None:
    assert np.array_equal(pixels(file_of(Image.fromarray(GREY), icc_profile=SRGB))[:, :, 0], GREY)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (RGB / 255.0, "expected an array of uint8 .*, found float64"),
        (RGB.astype(np.uint16), "found uint16"),
        (GREY > 9, "found bool"),
        (np.zeros((4, 4, 2), np.uint8), r"found \[4, 4, 2\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"found \[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "no pixel"),
        (None, "found NoneType"),
        (b"", "not a picture"),
        (b"not a picture at all", "not a picture"),
        ("/nonexistent/a.png", "cannot read '/nonexistent/a.png': No such file"),
        ("/", "Is a directory"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(array: Any, words: str) -> None:
    assert refused(words, pixels, array) == "image"


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_file_is_refused(keep: float) -> None:
    noise = file_of(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)))
    assert refused("decoded|not a picture", pixels, noise[: int(len(noise) * keep)]) == "image"


@pytest.mark.parametrize("side", [11, 20])
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Pillow only warns between its limit and twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    bomb = file_of(Image.new("RGB", (side, side)))
    with pytest.warns(Image.DecompressionBombWarning) if side == 11 else contextlib.nullcontext():
        assert refused("is too large", pixels, bomb) == "image"
    assert pixels(file_of(Image.new("RGB", (10, 10)))).shape == (10, 10, 3)


def test_the_callers_picture_is_not_changed() -> None:
    picture = Image.fromarray(np.dstack([RGB, GREY]))
    before = picture.tobytes()
    pixels(picture)
    levels(picture, alpha_means="keep")
    assert (picture.mode, picture.tobytes()) == ("RGBA", before)


def test_masks_become_one_channel() -> None:
    bilevel = GREY > 127
    expected = np.where(bilevel, 255, 0)
    assert np.array_equal(levels(bilevel), expected)
    assert np.array_equal(levels(Image.fromarray(bilevel)), expected)
    assert np.array_equal(levels(GREY), GREY)  # soft masks stay soft
    assert np.array_equal(levels(np.dstack([GREY] * 3)), GREY)
    assert np.array_equal(levels(file_of(Image.fromarray(GREY).convert("P"))), GREY)
    opaque = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    assert np.array_equal(levels(opaque), GREY)


def test_a_mask_of_zeros_and_ones_is_refused() -> None:
    """1 of 255 is next to nothing: the mask would look empty and nothing would be repainted."""
    assert refused("only 0 and 1", levels, (GREY > 127).astype(np.uint8)) == "mask_image"
    assert refused("found int64", levels, (GREY > 127).astype(np.int64)) == "mask_image"


def test_alpha_is_a_mask_only_by_name() -> None:
    alpha = np.where(GREY > 127, 255, 0).astype(np.uint8)
    rgba = np.dstack([RGB, alpha])
    assert np.array_equal(levels(rgba, alpha_means="repaint"), alpha)
    assert np.array_equal(levels(rgba, alpha_means="keep"), 255 - alpha)
    assert refused("transparent in places; say alpha_means", levels, rgba) == "mask_image"
    assert refused("no alpha channel", levels, RGB, alpha_means="keep") == "mask_image"
    assert refused("'both' is not one of repaint, keep", levels, rgba, alpha_means="both") == "alpha_means"


def test_a_mask_of_another_size_is_refused_or_fitted() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[:, 2:] = 255
    assert refused("is 4x4, the image is 9x6; fit_mask=True", levels, mask) == "mask_image"
    fitted = levels(mask, (8, 12), fit=True)
    assert fitted.shape == (12, 8)
    assert np.array_equal(fitted, np.where(np.arange(8) >= 4, 255, 0) * np.ones((12, 1)))
    assert np.array_equal(levels(GREY, fit=True), GREY)  # the right size already: stays soft


@pytest.mark.parametrize(("level", "expected"), [(127, 0), (128, 255)])
def test_a_fitted_mask_is_cut_at_127(level: int, expected: int) -> None:
    assert np.unique(levels(np.full((4, 4), level, np.uint8), (8, 8), fit=True)).tolist() == [expected]
