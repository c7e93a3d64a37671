"""Of a large picture only the part around the mask travels, and nobody can tell."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from client.tiny import MODELS, repainted
from gesso_client import (
    Client,
    DamagedPicture,
    Image,
    InvalidRequest,
    Limits,
    ModelInfo,
    Preview,
    Progress,
    ServerError,
)
from gesso_client import upload as uploads
from gesso_client.piece import surroundings
from gesso_client.testing import FakeTransport, description

LIMITS = {"max_image_pixels": 40_000, "max_request_bytes": 4 << 20, "max_preview_bytes": 1 << 20}
SIZE = {"native": 64, "multiple": 8, "max_pixels": 4096}
PHOTO = np.random.default_rng(5).integers(0, 256, (400, 600, 3), np.uint8)
MASK = np.zeros((400, 600), np.uint8)
MASK[300:320, 40:70] = 255
MASK[300:320, 70] = 3  # a soft edge


def asked(
    *script: Any, limits: Any = LIMITS, mask: np.ndarray = MASK, **options: Any
) -> tuple[list[Any], FakeTransport]:
    models = {"inpaint": description(limits=limits)}
    transport = FakeTransport(*([script] if script else []), models=models)
    return list(Client(transport=transport).stream(PHOTO, mask, "a cat", **options)), transport


def test_a_picture_above_the_limit_goes_as_a_piece_and_comes_back_whole() -> None:
    """48 megapixels of a phone were sent whole, and then refused."""
    events, transport = asked(seed=3, num_images_per_prompt=2)
    inputs = transport.requests[0].inputs
    top, left = inputs["picture_offset"].tolist()
    height, width = inputs["image"].shape[:2]
    assert inputs["picture_size"].tolist() == [400, 600]
    assert transport.requests[0].lists == {"picture_size", "picture_offset"}
    assert (top, left, height * width <= 40_000) == (220, 0, True)
    assert np.array_equal(inputs["image"], PHOTO[top : top + height, left : left + width])
    assert np.array_equal(inputs["mask_image"], MASK[top : top + height, left : left + width])
    assert inputs["image_sha256"][0].decode() == hashlib.sha256(inputs["image"].tobytes()).hexdigest()

    whole, other = asked(seed=3, num_images_per_prompt=2, limits={})
    assert "picture_size" not in other.requests[0].inputs
    pictures = [event for event in events if isinstance(event, Image)]
    for mine, theirs in zip(events, whole, strict=True):
        if isinstance(mine, Progress):
            assert mine == theirs
        else:
            assert np.array_equal(np.asarray(mine.image), np.asarray(theirs.image))
            assert dataclasses.replace(mine, image=None) == dataclasses.replace(theirs, image=None)
    assert np.array_equal(np.asarray(pictures[0].image), repainted(PHOTO, MASK))
    assert [(each.changed_outside_mask, each.counted_by) for each in pictures] == [(0, "client")] * 2


@pytest.mark.parametrize("preview_size", [None, 100, 300, 1000])
def test_previews_of_a_piece_are_of_the_whole(preview_size: int | None) -> None:
    options = {"preview_every": 2, "preview_size": preview_size}
    parts, wholes = (
        [event for event in asked(limits=limits, **options)[0] if isinstance(event, Preview)] for limits in (LIMITS, {})
    )
    assert len(parts) == len(wholes) == 2
    for part, whole in zip(parts, wholes, strict=True):
        width = min(preview_size or 512, 600)
        if preview_size is not None:
            assert part.image.size == whole.image.size == (width, round(width * 400 / 600))
        away = np.asarray(part.image)[: part.image.height // 2].astype(int)
        expected = PILImage.fromarray(PHOTO).resize(part.image.size, PILImage.Resampling.BOX)
        assert np.array_equal(away, np.asarray(expected)[: part.image.height // 2])
        inside = np.asarray(part.image)[part.image.height * 31 // 40, part.image.width * 55 // 600]
        assert not np.array_equal(
            inside, np.asarray(expected)[part.image.height * 31 // 40, part.image.width * 55 // 600]
        )


def test_a_piece_that_comes_back_wrong_is_seen() -> None:
    _, transport = asked()
    request = transport.requests[0]
    piece = repainted(request.inputs["image"], request.inputs["mask_image"])
    digest = hashlib.sha256(piece.tobytes()).hexdigest()
    (good,) = asked(Image(PILImage.fromarray(piece), 7, 0, {"image_sha256": digest}))[0]
    whole = np.asarray(good.image)
    assert np.array_equal(whole, repainted(PHOTO, MASK))
    assert good.report["image_sha256"] == hashlib.sha256(whole.tobytes()).hexdigest()
    (scripted,) = asked(Image(good.image, 7, 0, {}))[0]  # a script may have the whole picture
    assert np.array_equal(np.asarray(scripted.image), whole)
    wrong = piece.copy()
    wrong[0, 0] ^= 1
    for pixels, words in ((wrong, "1 pixels outside"), (piece[1:], "came back is"), (PHOTO[:100], "came back is")):
        with pytest.raises(DamagedPicture, match=words):
            asked(Image(PILImage.fromarray(pixels), 7, 0, {}))


def test_a_piece_is_sent_where_it_saves_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "WORTH", 200_000)
    assert "picture_size" in asked(limits={})[1].requests[0].inputs
    monkeypatch.setattr(uploads, "WORTH", 300_000)
    assert "picture_size" not in asked(limits={})[1].requests[0].inputs
    assert uploads.WORTH > 0


def test_an_older_server_gets_the_whole() -> None:
    monster = np.zeros((2100, 2100), np.uint8)
    monster[0, 0] = 255
    transport = FakeTransport(models=MODELS)
    Client(transport=transport).inpaint(np.zeros((2100, 2100, 3), np.uint8), monster, "a cat")
    assert set(transport.requests[0].inputs) == {"prompt", "image", "mask_image"}


@pytest.mark.parametrize(
    ("options", "words", "field"),
    [
        (
            {"padding_mask_crop": -1},
            r"240000 pixels \(600x400\) to send, 'inpaint' takes 40000; all that is above",
            "image",
        ),
        ({"mask": np.full_like(MASK, 255)}, "240000 pixels", "image"),
        ({"mask": np.maximum(MASK, 1)}, "all that is above 0 in the mask, however faint, has to travel", "image"),
        ({"padding_mask_crop": 300}, "to send, 'inpaint' takes 40000", "image"),
        ({"limits": {"max_request_bytes": 1000}}, "bytes to send, 'inpaint' takes at most 1000", "image"),
        (
            {"preview_every": 1, "preview_size": 512, "limits": {"max_preview_bytes": 9999}},
            "a preview of 512 pixels takes .* bytes, 'inpaint' takes at most 9999",
            "preview_size",
        ),
    ],
)
def test_what_the_server_would_refuse_is_not_sent(options: dict[str, Any], words: str, field: str) -> None:
    """48 megapixels of a phone were sent whole, and the bound was in no document."""
    transport = FakeTransport(models={"inpaint": description(limits=options.pop("limits", LIMITS))})
    with pytest.raises(InvalidRequest, match=words) as caught:
        Client(transport=transport).inpaint(PHOTO, options.pop("mask", MASK), "a cat", **options)
    assert caught.value.field == field
    limited = FakeTransport(models={"inpaint": description(limits=LIMITS)})
    with pytest.raises(InvalidRequest, match="240000 pixels"):
        Client(transport=limited).transform(PHOTO, "a cat")
    assert transport.requests == limited.requests == []


def test_limits_are_told() -> None:
    assert ModelInfo.parse("inpaint", description(limits=LIMITS | {"more": "x"})).limits == Limits(**LIMITS)
    assert ModelInfo.parse("inpaint", description(limits={})).limits == Limits()
    for wrong in ({"max_image_pixels": "many"}, {"max_image_pixels": True}, [], 7):
        with pytest.raises(ServerError, match="describes itself"):
            ModelInfo.parse("inpaint", description(limits=wrong))


def span(low: int, high: int, margin: int, least: int, multiple: int, limit: int) -> tuple[int, int]:
    """The server's rule (docs/api.md), for one side."""
    low, high = max(low - margin, 0), min(high + margin, limit)
    length = min(math.ceil(max(high - low, least) / multiple) * multiple, limit)
    start = min(max((low + high - length) // 2, 0), limit - length)
    return start, start + length


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_the_piece_holds_any_crop_of_any_part_of_the_mask(data: st.DataObject) -> None:
    """The server may find faint levels no part of the mask: whatever it leaves, the crop is in the piece."""
    native, multiple = data.draw(st.sampled_from([(64, 8), (512, 8), (96, 64)]))
    info = dataclasses.replace(
        ModelInfo.parse("inpaint", description(size=SIZE)), native_size=native, size_multiple=multiple
    )
    height, width = data.draw(st.integers(1, 1500)), data.draw(st.integers(1, 300))
    crop = data.draw(st.sampled_from([None, 0, 1, 32, 200]))
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, height - 1)] * 2)))
    inner_low, inner_high = sorted(data.draw(st.tuples(*[st.integers(low, high)] * 2)))
    mask = np.zeros((height, width), np.uint8)
    mask[low : high + 1, width // 2] = 1
    piece = surroundings(mask, info, crop)
    if piece is None:
        return
    margin, least = (native // 4, native) if crop is None else (crop, 1)
    top, bottom = span(inner_low, inner_high + 1, margin, least, multiple, height)
    left, right = span(width // 2, width // 2 + 1, margin, least, multiple, width)
    assert piece.top <= top
    assert bottom <= piece.top + piece.height
    assert piece.left <= left
    assert right <= piece.left + piece.width
