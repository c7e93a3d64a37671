"""Colour: from whatever a picture says its levels mean to sRGB.

What it says is its ICC profile; without one, the first of a PNG's chunks cICP, sRGB, and gAMA with cHRM, which are made
a profile here. What a profile *does* decides, never its name: one that moves no colour by more than a rounding error is
sRGB, and the levels stay as they are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageCms

from gesso_client.errors import InvalidRequest

ROUNDING = 2  # levels by which a profile that is sRGB may move a colour; one of gamma 2.2 moves dark ones by 7
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}  # of the profile that fits a mode
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # ICC's parametric curve of type 3
SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x, y of white, red, green, blue
# Of cICP (ITU-T H.273).
PRIMARIES = {
    1: SRGB_PRIMARIES,
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
CURVES = {1: SRGB_CURVE, 4: (2.2,), 5: (2.8,), 6: SRGB_CURVE, 8: (1.0,), 13: SRGB_CURVE, 14: SRGB_CURVE, 15: SRGB_CURVE}
HDR = (16, 18)  # PQ and HLG
GAMMA_OF_SRGB = 1 / 2.2  # what PNGs in sRGB have in gAMA; libpng takes what is within 5% of it for sRGB, too
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

_UNREADABLE = (
    *(ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError, struct.error),
    *(ArithmeticError, np.linalg.LinAlgError),  # primaries that are no colours
)


def to_srgb(picture: PILImage.Image, info: Mapping[Any, Any]) -> PILImage.Image:
    """A picture in an 8-bit mode without alpha as RGB. info: Pillow's, of the file; cicp is (primaries, transfer).

    A profile that is broken, or of another colour space than the picture, is as none.
    Raises InvalidRequest for HDR levels, and ValueError for a mode that Pillow cannot turn into RGB.
    """
    levels = picture.convert("RGB") if picture.mode == "L" else picture
    try:
        profile = _profile(picture.mode, info)
        if profile is not None and not (levels.mode == "RGB" and _is_srgb(profile)):
            converted = ImageCms.profileToProfile(levels, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    except _UNREADABLE:
        pass
    return levels.convert("RGB")


def from_srgb(picture: PILImage.Image, icc: bytes) -> PILImage.Image | None:
    """An sRGB picture in the levels of a profile, as `to_srgb` read them; None for one that is none of RGB."""
    try:
        profile = _opened(icc)
        if profile.profile.xcolor_space.strip() != "RGB":
            return None
        if _is_srgb(profile):
            return picture
        return ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), profile, outputMode="RGB")
    except _UNREADABLE:
        return None


def _profile(mode: str, info: Mapping[Any, Any]) -> ImageCms.ImageCmsProfile | None:
    """What the levels mean, as a profile of RGB for grey ones; None where they are sRGB by their own word."""
    try:
        if info.get("icc_profile"):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"]))
            if profile.profile.xcolor_space.strip() != SPACES.get(mode):
                return None
            return profile if mode != "L" else _opened(_rgb_profile(SRGB_PRIMARIES, _grey_curve(info["icc_profile"])))
    except _UNREADABLE:
        pass
    primaries, curve = _meaning(info)
    if curve is None or mode not in ("L", "RGB"):
        return None
    return _opened(_rgb_profile(primaries if mode == "RGB" else SRGB_PRIMARIES, _curve(curve)))


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def _meaning(info: Mapping[Any, Any]) -> tuple[Sequence[float], Sequence[float] | None]:
    """Primaries and curve of a PNG's chunks; no curve where they say sRGB or nothing."""
    primaries, transfer = info.get("cicp", (0, 0))
    if transfer in HDR:
        raise InvalidRequest("holds HDR levels (PQ or HLG) and no profile; save it in sRGB", "image")
    if primaries in PRIMARIES and transfer in CURVES:
        return PRIMARIES[primaries], CURVES[transfer]
    gamma, chromaticity = info.get("gamma"), info.get("chromaticity")
    if info.get("srgb") is not None or (gamma is None and chromaticity is None):
        return SRGB_PRIMARIES, None
    curve: Sequence[float] = SRGB_CURVE
    if gamma is not None and 0.1 <= gamma <= 5 and abs(gamma / GAMMA_OF_SRGB - 1) > 0.05:
        curve = (1 / gamma,)
    return chromaticity or SRGB_PRIMARIES, curve


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether it leaves colours as they are, seen by trying: every level of each channel and of grey, and a grid."""
    ramps = [np.outer(np.arange(256), channels) for channels in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 9)] * 3), axis=-1).reshape(-1, 3)
    probe = PILImage.fromarray(np.concatenate([*ramps, grid]).astype(np.uint8)[None])
    seen = ImageCms.profileToProfile(
        probe,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    before, after = (np.asarray(each).astype(int) for each in (probe, seen or probe))
    return bool(abs(before - after).max() <= ROUNDING)


def _rgb_profile(chromaticity: Sequence[float], curve: bytes) -> bytes:
    """A display profile of ICC version 4.3 with these primaries and this curve, as a tag has it."""
    corners = [_xyz(*chromaticity[index : index + 2]) for index in (0, 2, 4, 6)]
    white, primaries = corners[0], np.stack(corners[1:], axis=1)
    primaries = primaries * np.linalg.solve(primaries, white)
    adapted = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD @ primaries
    tags = {f"{channel}XYZ": _place(adapted[:, index]) for index, channel in enumerate("rgb")}
    return _icc(b"RGB ", tags | {f"{channel}TRC": curve for channel in "rgb"})


def _grey_curve(profile: bytes) -> bytes:
    """The curve of a profile for grey. Through the profile itself, Little CMS is off by ten levels in the dark."""
    if profile[20:24] != b"XYZ ":
        raise ValueError("a curve to lightness")
    (count,) = struct.unpack_from(">I", profile, 128)
    for index in range(min(count, 100)):
        name, begin, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if name == b"kTRC":
            return profile[begin : begin + size].ljust(size + -size % 4, b"\0")
    raise ValueError("no curve")


def _xyz(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _place(xyz: Iterable[float]) -> bytes:
    return struct.pack(">4s4x", b"XYZ ") + _fixed(xyz)


def _curve(parameters: Sequence[float]) -> bytes:
    kind = {1: 0, 5: 3}[len(parameters)]  # of ICC's parametric curves
    return struct.pack(">4s4xHH", b"para", kind, 0) + _fixed(parameters)


def _fixed(values: Iterable[float]) -> bytes:
    """s15Fixed16 numbers. Raises struct.error for one that is none."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _icc(space: bytes, curves: Mapping[str, bytes]) -> bytes:
    tags = {"wtpt": _place(D50), **curves}
    table, body = struct.pack(">I", len(tags)), b""
    begin = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():  # each of a multiple of 4 bytes
        table += struct.pack(">4sII", name.encode(), begin + len(body), len(content))
        body += content
    head = struct.pack(">I4xI4s4s4s12x4s28x", begin + len(body), 0x04300000, b"mntr", space, b"XYZ ", b"acsp")
    return (head + _fixed(D50)).ljust(128, b"\0") + table + body
