"""A file without its metadata is the same picture: held against Pillow on the whole file, of every way to write one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.files import RNG, file_of, named
from gesso_client.source import open_picture

NOISE = RNG.integers(0, 256, (37, 53, 4), np.uint8)
SMOOTH = np.dstack([np.add.outer(np.arange(37) * 3, np.arange(53) * 2 + shift) for shift in (0, 40, 90)]).astype(
    np.uint8
)
OTHER = Image.fromarray(255 - NOISE)
FRAMES = {"save_all": True, "append_images": [OTHER, OTHER], "duration": 10}


def mode(name: str) -> Image.Image:
    if name == "I;16":
        return Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(NOISE, "RGBA").convert(name)


WAYS: list[tuple[str, Image.Image, dict[str, Any]]] = [
    *(("PNG", mode(name), {}) for name in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("PNG", mode("P").quantize(colours), {}) for colours in (2, 4, 16)),
    *(("PNG", mode(name), {"transparency": 7, "optimize": True}) for name in ("L", "P")),
    ("PNG", mode("RGB"), {"transparency": tuple(map(int, NOISE[0, 0, :3])), "dpi": (72, 72)}),
    ("PNG", mode("RGBA"), FRAMES),
    ("PNG", mode("RGBA"), FRAMES | {"default_image": True}),
    *(("JPEG", mode(name), {}) for name in ("L", "RGB", "CMYK")),
    ("JPEG", Image.fromarray(SMOOTH), {"progressive": True, "quality": 95, "comment": b"hello", "dpi": (72, 72)}),
    ("JPEG", Image.fromarray(SMOOTH), {"restart_marker_blocks": 2, "optimize": True, "subsampling": 1}),
    ("JPEG", Image.fromarray(SMOOTH), {"keep_rgb": True}),
    ("WEBP", mode("RGB"), {}),
    ("WEBP", mode("RGBA"), {}),
    ("WEBP", mode("RGBA"), {"lossless": True, "exact": True, "exif": b"Exif\0\0junk", "xmp": b"<x/>"}),
    ("WEBP", mode("RGBA"), FRAMES),
    *(("TIFF", mode(name), {}) for name in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")),
    *(("TIFF", mode("RGB"), {"compression": each}) for each in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
    ("TIFF", mode("RGB"), {"big_tiff": True}),
]


@pytest.mark.parametrize(("kind", "picture", "options"), WAYS, ids=lambda each: getattr(each, "mode", str(each)[:40]))
def test_the_pixels_are_pillows(kind: str, picture: Image.Image, options: dict[str, Any]) -> None:
    data = file_of(picture, kind, **options)
    with Image.open(io.BytesIO(data)) as theirs:
        theirs.load()
        ours = open_picture(named(data, "a.tif" if kind == "TIFF" else ""), "image").picture
        assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
        assert np.array_equal(np.asarray(ours.convert("RGBA")), np.asarray(theirs.convert("RGBA")))
        assert ours.tobytes() == theirs.tobytes()
        again = open_picture(Image.open(io.BytesIO(data)), "image").picture
        assert (again.mode, again.tobytes()) == (theirs.mode, theirs.tobytes())
