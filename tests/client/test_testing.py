"""The fake transports that users' tests stand on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from client.tiny import IMAGE, MASK, description
from client.until import until
from gesso_client import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectionFailed,
    Event,
    Image,
    InvalidRequest,
    ModelInfo,
    NotFound,
    Preview,
    Progress,
    ServerError,
    Unavailable,
)
from gesso_client.request import Request, build
from gesso_client.testing import AsyncFakeTransport, FakeTransport, parameters
from gesso_client.transport.contract import AsyncTransport, Transport

PICTURE = Image(PILImage.fromarray(IMAGE), 5, 0, {"warnings": ["ünï"]})
PREVIEW = Preview(PILImage.fromarray(IMAGE[::2, ::2]), 1, 2, 0)


class Both:
    """Asks a client of either kind in the same words."""

    def __init__(self, kind: str, *scripts: Any, **options: Any) -> None:
        self.kind = kind
        self.transport = (FakeTransport if kind == "sync" else AsyncFakeTransport)(*scripts, **options)

    def stream(self, *pictures: Any, **options: Any) -> list[Event]:
        if self.kind == "sync":
            gesso = Client(transport=self.transport, sleep=lambda _: None)
            return list(gesso.stream(*pictures, "a cat", **options))

        async def no_sleep(seconds: float) -> None:
            pass

        async def main() -> list[Event]:
            gesso = AsyncClient(transport=self.transport, sleep=no_sleep)
            return [event async for event in gesso.stream(*pictures, "a cat", **options)]

        return asyncio.run(main())


KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@KINDS
def test_a_script_arrives_as_it_was_written(kind: str) -> None:
    both = Both(kind, [Progress(1, 2, 0), PREVIEW, Progress(2, 2, 0), PICTURE])
    first, preview, second, picture = both.stream(IMAGE, MASK)
    assert (first, second) == (Progress(1, 2, 0), Progress(2, 2, 0))
    assert isinstance(preview, Preview)
    assert isinstance(picture, Image)
    assert (picture.seed, picture.index, picture.report) == (PICTURE.seed, 0, PICTURE.report)
    assert np.array_equal(np.asarray(picture.image), IMAGE)
    assert np.array_equal(np.asarray(preview.image), IMAGE[::2, ::2])


@KINDS
def test_without_a_script_it_paints_inside_the_mask_only(kind: str) -> None:
    """A user's test that looks at the pixels it wanted kept must not fail for the fake's sake."""
    both = Both(kind)
    events = both.stream(IMAGE, MASK, num_inference_steps=2, preview_every=2, num_images_per_prompt=2, seed=3)
    assert [type(event) for event in events] == [*[Progress] * 3, Preview, Progress, Preview, Image, Image]
    assert [(event.index, event.seed) for event in events if isinstance(event, Image)] == [(0, 3), (1, 4)]
    assert isinstance(events[-1], Image)
    pixels = np.asarray(events[-1].image)
    assert np.array_equal(pixels[~MASK], IMAGE[~MASK])
    assert np.array_equal(pixels[MASK], 255 - IMAGE[MASK])
    assert isinstance(events[3], Preview)
    rough = np.asarray(events[3].image)
    assert np.array_equal(rough[~MASK], IMAGE[~MASK])
    assert not np.array_equal(rough, pixels)
    (picture,) = [event for event in both.stream(None, None, height=8, width=24) if isinstance(event, Image)]
    assert picture.image.size == (24, 8)


@KINDS
def test_errors_are_raised_and_attempts_counted(kind: str) -> None:
    busy = Unavailable("the queue is full")
    both = Both(kind, [busy], [busy], [PICTURE])
    assert len(both.stream(IMAGE, MASK, deadline=9)) == 1
    assert (len(both.transport.requests), both.transport.descriptions) == (3, 1)
    assert both.transport.requests[0].inputs["prompt"].tolist() == [b"a cat"]
    with pytest.raises(ServerError, match="engine on fire"):
        Both(kind, [Progress(1, 1, 0), ServerError("engine on fire")]).stream(IMAGE, MASK)


@KINDS
def test_the_description_is_the_models(kind: str) -> None:
    """The client checks against it, and so does the fake, which a request can reach in other ways."""
    both = Both(kind, models={"inpaint": description()})
    with pytest.raises(InvalidRequest, match=r"guidance_scale: 99.0 is above the maximum 50.0"):
        both.stream(IMAGE, MASK, guidance_scale=99)
    with pytest.raises(NotFound, match="unknown model 'other'"):
        both.stream(IMAGE, MASK, model="other")
    assert both.transport.calls == []
    fewer = Both(kind, models={"inpaint": description(parameters={"prompt": parameters()["prompt"]})}).transport
    info = ModelInfo.parse("inpaint", description())
    request = build(info, "text_to_image", "a cat", None, None, {"seed": 1}, live=True)
    with pytest.raises(InvalidRequest, match="unexpected inference input 'seed'") as caught:
        responses_of(fewer, request)
    assert caught.value.field == "seed"


def responses_of(transport: Transport | AsyncTransport, request: Request) -> list[Any]:
    async def main(responses: AsyncIterator[Any]) -> list[Any]:
        return [response async for response in responses]

    responses = transport.run(request)
    return asyncio.run(main(responses)) if isinstance(responses, AsyncIterator) else list(responses)


def test_a_call_is_cancelled_only_while_it_runs() -> None:
    transport = FakeTransport([Progress(1, 2, 0), lambda call: call.cancelled.wait(5), PICTURE], [PICTURE])
    gesso = Client(transport=transport)
    job = gesso.submit(IMAGE, MASK, "a cat")
    assert until(lambda: job.progress is not None)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(timeout=5)
    finished = gesso.submit(IMAGE, MASK, "a dog")
    finished.result(timeout=5)
    finished.cancel()
    assert [call.cancelled.is_set() for call in transport.calls] == [True, False]


def test_an_async_call_waits_without_standing_in_the_loops_way() -> None:
    async def main() -> None:
        transport = AsyncFakeTransport(*[[Progress(1, 2, 0), lambda _: asyncio.Event().wait()]] * 2, [PICTURE])
        gesso = AsyncClient(transport=transport)
        async with aclosing(gesso.stream(IMAGE, MASK, "dropped")) as events:
            await anext(events)
        job = await gesso.submit(IMAGE, MASK, "cancelled")
        await anext(job.events())
        job.cancel()
        with pytest.raises(Cancelled):
            await job.result(timeout=5)
        await gesso.inpaint(IMAGE, MASK, "finished")
        assert [call.cancelled.is_set() for call in transport.calls] == [True, True, False]

    asyncio.run(main())


def test_closing_the_client_ends_what_runs() -> None:
    held = threading.Event()

    def hold(call: Any) -> None:
        held.set()
        assert call.cancelled.wait(5)

    gesso = Client(transport=FakeTransport([hold]))
    job = gesso.submit(IMAGE, MASK, "a cat")
    assert held.wait(5)
    gesso.close()
    with pytest.raises(Cancelled):
        job.result(timeout=5)
    with pytest.raises(ConnectionFailed, match="the client is closed"):
        gesso.generate("a cat")


def test_it_needs_no_test_framework_and_no_network() -> None:
    unwanted = "{'pytest', 'unittest', 'hypothesis', 'grpc', 'tritonclient', 'torch'}"
    code = f"import sys, gesso_client.testing; assert not {unwanted} & set(sys.modules), {unwanted} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
