"""A piece of a large picture is painted as the whole would be: only what is worked on has to travel."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.fakes import FakeClient, FakeTokenizer, fake_bundle, inputs, picture, serving
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion import paint
from gesso_backend.kinds.diffusion.families import FAMILIES
from gesso_backend.kinds.diffusion.prepared import Prepared, prepare
from gesso_backend.kinds.diffusion.request import parse

Pixels = npt.NDArray[np.uint8]
BUNDLE = fake_bundle()
sides = st.integers(1, 400)


def prepared_of(**values: Any) -> Prepared:
    request = parse(inputs(seed=1, **values), BUNDLE)
    return prepare(request, BUNDLE, FAMILIES[BUNDLE.family], {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]


def piece_of(array: Pixels, offset: tuple[int, int], size: tuple[int, int]) -> Pixels:
    return np.ascontiguousarray(array[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]])


@st.composite
def masks(draw: st.DrawFn) -> Pixels:
    """[H, W] with up to three boxes of any level, one of which is repainted."""
    height, width = draw(sides), draw(sides)
    mask = np.zeros((height, width), np.uint8)
    for level in [draw(st.integers(128, 255)), *draw(st.lists(st.integers(0, 255), max_size=2))]:
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        mask[top:bottom, left:right] = np.maximum(mask[top:bottom, left:right], level)
    return mask


def enclosing(box: list[int], mask: Pixels, more: tuple[int, int, int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The offset and size of a piece that holds a box and all of the mask, and so many pixels more on each side."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    top = max(min(box[0], int(rows[0])) - more[0], 0)
    left = max(min(box[1], int(columns[0])) - more[1], 0)
    bottom = min(max(box[0] + box[2], int(rows[-1]) + 1) + more[2], mask.shape[0])
    right = min(max(box[1] + box[3], int(columns[-1]) + 1) + more[3], mask.shape[1])
    return (top, left), (bottom - top, right - left)


options = st.fixed_dictionaries(
    {"mask_feather": st.integers(0, 12), "latent_blend": st.booleans()},
    optional={"padding_mask_crop": st.integers(-1, 90)},
)


@given(masks(), options, st.tuples(*[st.integers(0, 40)] * 4), st.integers(0, 999))
def test_a_piece_is_painted_as_the_whole(
    mask: Pixels, values: dict[str, Any], more: tuple[int, int, int, int], seed: int
) -> None:
    """Guards a phone's 48 megapixels: canvas, masks, warnings, report and every byte, for any mask and any piece."""
    image = picture(*mask.shape, seed)
    whole = prepared_of(image=image, mask_image=mask, **values)
    crop = paint.report(whole, image, 0)["crop"]
    offset, size = enclosing(crop, mask, more)
    part = prepared_of(
        image=piece_of(image, offset, size), mask_image=piece_of(mask, offset, size),
        picture_size=list(mask.shape), picture_offset=list(offset), **values,
    )  # fmt: skip
    assert part.content == whole.content
    for name in ("picture", "pixels", "repaint", "latent_mask", "alpha"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name), strict=True)
    work = picture(whole.canvas.work_height, whole.canvas.work_width, seed + 1)
    painted, output = paint.paint(part, work), paint.paint(whole, work)
    np.testing.assert_array_equal(painted, piece_of(output, offset, size))
    outside = np.ones(mask.shape, np.bool_)
    outside[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]] = False
    np.testing.assert_array_equal(output[outside], image[outside])
    told, expected = paint.report(part, painted, 0), paint.report(whole, output, 0)
    assert told.pop("image_sha256") == hashlib.sha256(painted.tobytes()).hexdigest()
    assert expected.pop("image_sha256") == hashlib.sha256(output.tobytes()).hexdigest()
    assert told == expected


def test_a_picture_too_large_to_send_is_painted_by_its_piece_through_the_service() -> None:
    """Guards the whole way: the numbers say 2**31 pixels, and 128 x 128 travel."""
    height, width = 2**15, 2**16
    mask = np.zeros((128, 128), np.uint8)
    mask[50:70, 60:90] = 255
    piece, offset = picture(128, 128), [30000, 50001]
    client, alone = FakeClient(), FakeClient()
    with serving() as service:
        sent = inputs(image=piece, mask_image=mask, seed=3, picture_size=[height, width], picture_offset=offset)
        service.submit(sent, client)
        (image,) = client.images()
        service.submit(inputs(image=piece, mask_image=mask, seed=3), alone)
        np.testing.assert_array_equal(image, alone.images()[0])  # by luck of its place: the same crop, moved
    report = json.loads(client.events[-1].report)
    assert report["crop"] == [30000 + 28, 50001 + 43, 64, 64]
    assert report["mask_coverage_pct"] == 0.0
    assert report["changed_outside_mask"] == 0
    assert (report["parameters"]["height"], report["parameters"]["width"]) == (height, width)


def test_a_piece_that_lacks_some_of_the_crop_is_told_what_is_needed() -> None:
    """Guards against a guess at pixels that nobody sent."""
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 255
    with pytest.raises(InvalidRequest) as caught:
        prepared_of(image=picture(40, 40), mask_image=mask, picture_size=[900, 900], picture_offset=[100, 200])
    assert str(caught.value) == (
        "INVALID_ARG: picture_offset: the piece has rows 100 to 139 and columns 200 to 239 of the picture; "
        "needed are rows 83 to 146 and columns 183 to 246"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"picture_size": [40, 40]}, "picture_offset: missing: where the piece lies in the picture of picture_size"),
        ({"picture_offset": [0, 0]}, "picture_size: missing: picture_offset is where a piece lies"),
        ({"picture_size": [40, 39], "picture_offset": [0, 0]}, "picture_offset: the piece ends at 40, beyond the"),
        ({"picture_size": [50, 50], "picture_offset": [11, 0]}, "picture_offset: the piece ends at 51, beyond the"),
        ({"picture_size": [2**16, 2**16], "picture_offset": [0, 0]}, "picture_size: 4294967296 pixels is above"),
        ({"picture_size": [50, 50, 3], "picture_offset": [0, 0]}, "picture_size: expected 2 numbers"),
        ({"picture_size": [50, 50], "picture_offset": [-1, 0]}, "picture_offset: -1 is below the minimum 0"),
        ({"picture_size": [50, 0], "picture_offset": [0, 0]}, "picture_size: 0 is below the minimum 1"),
    ],
)
def test_a_piece_that_lies_nowhere_is_refused(values: dict[str, Any], message: str) -> None:
    """Guards numbers that would wrap or point outside."""
    mask = np.full((40, 40), 255, np.uint8)
    with pytest.raises(InvalidRequest) as caught:
        prepared_of(image=picture(40, 40), mask_image=mask, **values)
    assert str(caught.value).startswith(f"INVALID_ARG: {message}")


def test_a_piece_without_a_mask_is_refused() -> None:
    """Guards image-to-image: it paints all of the picture, so a piece cannot do."""
    with pytest.raises(InvalidRequest, match="picture_size: needs a mask_image"):
        prepared_of(image=picture(40, 40), picture_size=[50, 50], picture_offset=[0, 0])
