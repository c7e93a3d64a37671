"""Only what was looked at is certified: what comes back is held against what was given, on every path."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from client.files import RGB, file_of
from client.servers import FakeTriton, FakeTritonHttp
from client.tiny import IMAGE, MASK, MODELS, PROGRESS, repainted
from gesso_client import AsyncClient, Client, DamagedPicture, Image, InvalidRequest, ServerError
from gesso_client.testing import AsyncFakeTransport, FakeTransport, answer, description, response

WHOLE = repainted(IMAGE, MASK)
CALLS = ["inpaint", "stream", "submit", "async inpaint", "async stream", "async submit"]


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def picture(pixels: np.ndarray, **report: Any) -> Image:
    return Image(PILImage.fromarray(pixels), 7, 0, report)


def asked(call: str, *script: Any, mask: Any = MASK, **options: Any) -> Image:
    """The picture that one way of calling gives."""
    if not call.startswith("async"):
        gesso = Client(transport=FakeTransport(script))
        if call == "inpaint":
            return gesso.inpaint(IMAGE, mask, "a cat", **options).pictures[0]
        if call == "stream":
            return list(gesso.stream(IMAGE, mask, "a cat", **options))[-1]  # type: ignore[return-value]
        return gesso.submit(IMAGE, mask, "a cat", **options).result(5).pictures[0]

    async def main() -> Any:
        gesso = AsyncClient(transport=AsyncFakeTransport(script))
        if call.endswith("inpaint"):
            return (await gesso.inpaint(IMAGE, mask, "a cat", **options)).pictures[0]
        if call.endswith("stream"):
            return [event async for event in gesso.stream(IMAGE, mask, "a cat", **options)][-1]
        return (await (await gesso.submit(IMAGE, mask, "a cat", **options)).result(5)).pictures[0]

    return asyncio.run(main())  # type: ignore[no-any-return]


@pytest.mark.parametrize("call", CALLS)
def test_a_kept_pixel_that_came_back_changed_is_an_error_whatever_the_report_says(call: str) -> None:
    """python-pillow/Pillow#4848: pictures wrong in most of what was kept had `changed_outside_mask: 0`."""
    found = asked(call, PROGRESS, picture(WHOLE, changed_outside_mask=0, counted_by="server"))
    assert (found.changed_outside_mask, found.counted_by) == (0, "client")
    assert found.report["counted_by"] == "server"
    for changed in (1, 20):
        wrong = WHOLE.copy()
        wrong[np.nonzero(~MASK)[0][:changed], np.nonzero(~MASK)[1][:changed]] ^= 1
        with pytest.raises(DamagedPicture, match=f"{changed} pixels outside the mask came back changed") as caught:
            asked(call, PROGRESS, picture(wrong, changed_outside_mask=0))
        assert isinstance(caught.value, ServerError)
        assert caught.value.field == "image"


@pytest.mark.parametrize("call", CALLS)
def test_a_picture_of_another_size_or_that_arrived_damaged_is_an_error(call: str) -> None:
    with pytest.raises(DamagedPicture, match="is 6x3, not 6x4"):
        asked(call, picture(WHOLE[:3]))
    right = digest(WHOLE)
    assert asked(call, picture(WHOLE, image_sha256=right)).report == {"image_sha256": right}
    wrong = WHOLE.copy()
    wrong[0, 0] ^= 1  # inside the mask, where nothing else would show it
    with pytest.raises(DamagedPicture, match="arrived damaged"):
        asked(call, picture(wrong, image_sha256=right))


def test_without_a_mask_nothing_is_counted() -> None:
    gesso = Client(transport=FakeTransport())
    for result in (gesso.transform(IMAGE, "a cat"), gesso.generate("a cat", height=8, width=16)):
        assert (result.changed_outside_mask, result.counted_by) == (None, None)
    several = gesso.inpaint(IMAGE, MASK, "a cat", num_images_per_prompt=3)
    assert (several.changed_outside_mask, several.counted_by) == (0, "client")
    with pytest.raises(DamagedPicture, match="is 6x4, not 16x8"):
        Client(transport=FakeTransport([picture(IMAGE)])).generate("a cat", height=8, width=16)


def test_soft_edges_may_change_and_an_inverted_mask_keeps_its_white() -> None:
    soft = np.where(MASK, 255, 1).astype(np.uint8)
    assert asked("inpaint", picture(255 - IMAGE), mask=soft).changed_outside_mask == 0
    inverted = repainted(IMAGE, ~MASK)
    assert asked("inpaint", picture(inverted), mask=MASK, mask_invert=True).changed_outside_mask == 0
    with pytest.raises(DamagedPicture, match="4 pixels outside"):
        asked("inpaint", picture(WHOLE), mask=MASK, mask_invert=True)
    with pytest.raises(InvalidRequest, match="is empty: its highest level is 0"):
        asked("inpaint", mask=np.ones_like(MASK), mask_invert=True)
    gesso = Client(transport=FakeTransport())
    assert np.array_equal(np.asarray(gesso.inpaint(IMAGE, MASK, "x", mask_invert=True).image), inverted)


def test_the_digests_of_what_is_sent_go_with_it_where_the_model_has_them() -> None:
    transport = FakeTransport()
    Client(transport=transport).inpaint(file_of(RGB), np.ones((6, 9), bool), "a cat", mask_invert=False)
    inputs = transport.requests[0].inputs
    assert inputs["image_sha256"].tolist() == [digest(RGB).encode()]
    assert inputs["mask_image_sha256"].tolist() == [digest(inputs["mask_image"]).encode()]
    Client(transport=transport).transform(RGB, "a cat")
    assert "mask_image_sha256" not in transport.requests[1].inputs
    older = FakeTransport(models=MODELS)
    Client(transport=older).inpaint(IMAGE, MASK, "a cat")
    assert set(older.requests[0].inputs) == {"prompt", "image", "mask_image"}
    with pytest.raises(InvalidRequest, match="unknown option"):
        Client(transport=older).inpaint(IMAGE, MASK, "a cat", image_sha256="0" * 64)  # type: ignore[call-arg]


def test_a_fake_server_sees_an_upload_that_was_damaged_on_the_way() -> None:
    class Noisy(FakeTransport):
        def _answer(self, request: Any) -> Any:
            image = request.inputs["image"].copy()
            image[0, 0] ^= 1
            object.__setattr__(request, "inputs", {**request.inputs, "image": image})
            return super()._answer(request)

    with pytest.raises(InvalidRequest, match="arrived damaged") as caught:
        Client(transport=Noisy()).inpaint(IMAGE, MASK, "a cat")
    assert caught.value.field == "image"


def test_what_was_decoded_cannot_be_written_to() -> None:
    transport = FakeTransport()
    Client(transport=transport).inpaint(IMAGE, MASK, "a cat")
    for name in ("image", "mask_image"):
        with pytest.raises(ValueError, match="read-only"):
            transport.requests[0].inputs[name][:] = 0


# Over the wires


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that changes one pixel of what it was to keep, and says it changed none."""

    def dishonest(inputs: dict[str, Any]) -> Iterator[Any]:
        for event in answer(inputs, *inputs["image"].shape[:2]):
            if isinstance(event, Image):
                pixels = np.array(event.image)
                pixels[0, 5] ^= 1
                event = picture(pixels, changed_outside_mask=0, image_sha256=digest(pixels))
            yield response(event)

    monkeypatch.setattr("client.servers.replies", dishonest)
    monkeypatch.setitem(MODELS, "inpaint", description())
    fake = FakeTriton() if request.param == "grpc" else FakeTritonHttp()
    yield fake.url
    fake.stop()


def test_both_wires_are_looked_at(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url) as gesso:
            await gesso.inpaint(IMAGE, MASK, "a cat")

    with Client(url) as gesso:
        calls = [
            lambda: gesso.inpaint(IMAGE, MASK, "a cat"),
            lambda: gesso.inpaint(IMAGE, MASK, "a cat", num_images_per_prompt=2),
            lambda: list(gesso.stream(IMAGE, MASK, "a cat")),
            lambda: gesso.submit(IMAGE, MASK, "a cat").result(10),
            lambda: asyncio.run(main()),
        ]
        for call in calls:
            with pytest.raises(DamagedPicture, match="1 pixels outside"):
                call()


def test_the_report_of_the_fake_is_honest() -> None:
    result = Client(transport=FakeTransport()).inpaint(IMAGE, MASK, "a cat")
    assert json.loads(json.dumps(result.report)) == {
        "changed_outside_mask": 0,
        "counted_by": "server",
        "image_sha256": digest(np.asarray(result.image)),
        "warnings": [],
    }
