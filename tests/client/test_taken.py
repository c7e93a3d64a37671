"""A picture is taken out of its caller's hands when a call begins, whatever they hold it in."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.files import RGB, file_of
from client.tiny import repainted
from gesso_client import AsyncClient, Client, InvalidRequest
from gesso_client.pictures import image_pixels
from gesso_client.source import open_picture
from gesso_client.testing import AsyncFakeTransport, FakeTransport

PHOTO = np.random.default_rng(3).integers(0, 256, (480, 640, 3), np.uint8)
MASK = np.zeros((480, 640), np.uint8)
MASK[200:240, 300:340] = 255
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("JPEG", {"quality": 90}),
]


def pixels(picture: Any, **options: Any) -> np.ndarray:
    return image_pixels(open_picture(picture, "image"), **options)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda each: str(each))
def test_one_lazy_picture_in_many_threads(kind: str, options: dict[str, Any]) -> None:
    """python-pillow/Pillow#4848: kept pixels came back wrong and certified as unchanged, or an AssertionError."""
    data = file_of(PHOTO, kind, **options)
    gesso = Client(transport=FakeTransport())
    for _ in range(3):
        picture, barrier = Image.open(io.BytesIO(data)), threading.Barrier(8)

        def one(_: int, picture: Image.Image = picture, barrier: threading.Barrier = barrier) -> np.ndarray:
            barrier.wait(10)
            return np.asarray(gesso.inpaint(picture, MASK, "a bench").image)

        with ThreadPoolExecutor(8) as pool:
            assert all(np.array_equal(found, repainted(decoded(data), MASK)) for found in pool.map(one, range(8)))


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda each: str(each))
def test_one_lazy_picture_in_many_tasks(kind: str, options: dict[str, Any]) -> None:
    """python-pillow/Pillow#4848, with asyncio.gather."""
    data = file_of(PHOTO, kind, **options)

    async def main() -> None:
        gesso, picture = AsyncClient(transport=AsyncFakeTransport()), Image.open(io.BytesIO(data))
        results = await asyncio.gather(*(gesso.inpaint(picture, MASK, f"bench {index}") for index in range(8)))
        assert all(np.array_equal(np.asarray(each.image), repainted(decoded(data), MASK)) for each in results)

    asyncio.run(main())


def test_two_pictures_of_one_file_and_the_file_itself() -> None:
    """python-pillow/Pillow#4848, one level below: what the threads share is the file's position."""
    file = io.BytesIO(file_of(PHOTO))
    sources = [Image.open(file), Image.open(file), file] * 3
    with ThreadPoolExecutor(9) as pool:
        assert all(np.array_equal(found, PHOTO) for found in pool.map(pixels, sources))


def test_a_lazy_picture_stays_its_owners(tmp_path: Path) -> None:
    """And its file is closed, as by looking at it: a warning that it is not would be an error here."""
    (tmp_path / "a.png").write_bytes(file_of(RGB))
    picture = Image.open(tmp_path / "a.png")
    assert np.array_equal(pixels(picture), RGB)
    assert np.array_equal(np.asarray(picture), RGB)
    assert np.array_equal(pixels(Image.open(tmp_path / "a.png")), RGB)


Change = Callable[[Any], object]


def scribble(array: np.ndarray) -> None:
    array[:] = 0


@pytest.mark.parametrize(
    ("source", "change"),
    [
        (lambda: RGB.copy(), scribble),
        (lambda: Image.fromarray(RGB), lambda picture: picture.paste(0, (0, 0, 9, 6))),
        (lambda: Image.open(io.BytesIO(file_of(RGB))), lambda picture: picture.close()),
        (lambda: bytearray(file_of(RGB)), lambda data: data.clear()),
        (lambda: io.BytesIO(file_of(RGB)), lambda file: file.close()),
    ],
    ids=["array", "PIL", "lazy PIL", "bytearray", "file"],
)
def test_a_picture_that_changes_after_the_call_began_is_the_one_that_was_given(source: Any, change: Change) -> None:
    """python-pillow/Pillow#4848: the caller goes on with its object while the request is prepared and runs."""
    mask = np.ones((6, 9), bool)

    async def main() -> None:
        gesso = AsyncClient(transport=AsyncFakeTransport())
        for call in (gesso.inpaint, gesso.submit):
            picture = source()
            waiting = call(picture, mask, "a cat")
            change(picture)
            found = await waiting
            result = found if call == gesso.inpaint else await found.result()
            assert np.array_equal(np.asarray(result.image), 255 - RGB)
        picture = source()
        events = gesso.stream(picture, mask, "a cat")
        change(picture)
        assert np.array_equal(np.asarray([event async for event in events][-1].image), 255 - RGB)

    asyncio.run(main())
    gesso, picture = Client(transport=FakeTransport()), source()
    job, events = gesso.submit(picture, mask, "a cat"), gesso.stream(picture, mask, "a cat")
    change(picture)
    assert np.array_equal(np.asarray(job.result(5).image), 255 - RGB)
    assert np.array_equal(np.asarray(list(events)[-1].image), 255 - RGB)


def test_what_is_wrong_with_a_picture_is_raised_where_the_call_is_awaited() -> None:
    """So that asyncio.gather(return_exceptions=True) collects it."""

    async def main() -> list[Any]:
        gesso = AsyncClient(transport=AsyncFakeTransport())
        pictures: list[Any] = [RGB, b"junk", None, 7]
        calls = [gesso.transform(picture, "a cat") for picture in pictures]
        return await asyncio.gather(*calls, return_exceptions=True)

    good, *bad = asyncio.run(main())
    assert np.array_equal(np.asarray(good.image), 255 - RGB)
    assert [type(error) for error in bad] == [InvalidRequest] * 3
