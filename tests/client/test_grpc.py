"""Both clients over real gRPC, against a fake Triton on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import numpy as np
import pytest

from client.servers import FakeTriton, Wire
from client.tiny import repainted
from client.until import until
from gesso_client import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Image,
    InvalidRequest,
    NotFound,
    Preview,
    Progress,
    ServerError,
    Unavailable,
)
from gesso_client.transport import contract

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:20, 10:20] = True
ENDLESS = 1000  # steps


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    fake = FakeTriton(step_s=0.01)
    yield fake
    fake.stop()


@pytest.fixture
def gesso(triton: FakeTriton) -> Iterator[Client]:
    with Client(triton.url) as client:
        yield client


def test_a_picture_crosses_the_wire_unchanged(gesso: Client, triton: FakeTriton) -> None:
    result = gesso.inpaint(IMAGE, MASK, 'hé 日本 😀 "q"', seed=2**62, guidance_scale=0.7, latent_blend=False)
    assert np.array_equal(np.asarray(result.image), repainted(IMAGE, MASK))
    assert result.seed == 2**62
    sent = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in triton.requests[0].inputs}
    assert sent == {
        "prompt": ("BYTES", [1]),
        "image": ("UINT8", [40, 60, 3]),
        "mask_image": ("UINT8", [40, 60]),
        "seed": ("INT64", [1]),
        "guidance_scale": ("FP32", [1]),
        "latent_blend": ("BOOL", [1]),
    }
    raw = dict(zip(sent, triton.requests[0].raw_input_contents, strict=True))
    assert raw["prompt"][4:].decode() == 'hé 日本 😀 "q"'
    assert raw["image"] == IMAGE.tobytes()


def test_pictures_above_grpcs_default_limit_pass(gesso: Client) -> None:
    large = np.zeros((1200, 1300, 3), np.uint8)  # 4.7 MB; the default is 4 MiB
    assert gesso.transform(large, "a cat").image.size == (1300, 1200)


def test_events_come_as_they_happen(gesso: Client) -> None:
    events = list(gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=4, preview_every=2))
    assert [type(event) for event in events] == [Progress, Progress, Preview, Progress, Progress, Preview, Image]
    assert events[2].image.size == (60, 40)
    first = next(gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS))
    assert first == Progress(1, ENDLESS, 0)


def test_several_pictures_come_from_one_request(gesso: Client, triton: FakeTriton) -> None:
    assert [p.seed for p in gesso.generate("a cat", num_images_per_prompt=3, seed=5).pictures] == [5, 6, 7]
    assert len(triton.requests) == 1


def test_models_are_listed(gesso: Client) -> None:
    assert [(info.name, info.bundle) for info in gesso.models()] == [("inpaint", "tiny")]
    with pytest.raises(NotFound) as caught:
        gesso.generate("a cat", model="nope")
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        ("INVALID_ARG: mask_image: is empty", InvalidRequest, "mask_image"),
        ("NOT_FOUND: scheduler: 'x' is not one of y", NotFound, "scheduler"),
        ("DEADLINE: the deadline passed", DeadlineExceeded, None),
        ("CANCELLED: by the server", Cancelled, None),
        ("INTERNAL: engine on fire", ServerError, None),
        ("UNAVAILABLE: the queue is full", Unavailable, None),
        ("unexpected inference input 'foo' for model 'inpaint'", InvalidRequest, "foo"),
    ],
)
def test_the_servers_errors_arrive_typed(triton: FakeTriton, message: str, kind: type, field: str | None) -> None:
    with Client(triton.url, retries=0) as gesso, pytest.raises(kind) as caught:
        gesso.generate(f"error: {message}")
    assert (type(caught.value), caught.value.field) == (kind, field)


def test_cancelling_a_job_reaches_the_server_and_no_other_job(gesso: Client, triton: FakeTriton) -> None:
    cancelled = gesso.submit(IMAGE, MASK, "cancelled", num_inference_steps=ENDLESS)
    other = gesso.submit(IMAGE, MASK, "other", num_inference_steps=30)
    assert until(lambda: cancelled.progress is not None)
    for _ in range(2):
        cancelled.cancel()
    with pytest.raises(Cancelled, match="the request was cancelled"):
        cancelled.result(timeout=5)
    assert other.result(timeout=5).seed == 7
    assert until(lambda: triton.cancelled == ["cancelled"])


def test_dropping_a_stream_reaches_the_server(gesso: Client, triton: FakeTriton) -> None:
    for _ in gesso.stream(IMAGE, MASK, "dropped", num_inference_steps=ENDLESS):
        break
    assert until(lambda: triton.cancelled == ["dropped"])


def test_closing_the_client_ends_what_runs(triton: FakeTriton) -> None:
    gesso = Client(triton.url)
    job = gesso.submit(IMAGE, MASK, "closed", num_inference_steps=ENDLESS)
    assert until(lambda: job.progress is not None)
    gesso.close()
    with pytest.raises(Cancelled):
        job.result(timeout=5)
    assert until(lambda: triton.cancelled == ["closed"])
    with pytest.raises(ConnectionFailed, match="the client is closed"):
        gesso.generate("a cat")


def test_a_connection_that_breaks_ends_the_job(triton: FakeTriton) -> None:
    wire = Wire(triton.port)
    with Client(wire.url) as gesso:
        job = gesso.submit(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS)
        assert until(lambda: job.progress is not None)
        wire.pull()
        with pytest.raises(ConnectionFailed, match="gRPC connection"):
            job.result(timeout=5)


def test_nobody_there_is_said_at_once() -> None:
    started = time.monotonic()
    with Client("127.0.0.1:9") as gesso, pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
        gesso.generate("a cat")
    assert time.monotonic() - started < 5


def test_the_deadline_travels_and_is_kept_when_the_server_keeps_silent(
    gesso: Client, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesso_client.transport.grpc_messages.GRACE_S", 0.1)
    assert contract.GRACE_S > 1  # the server answers first
    with pytest.raises(DeadlineExceeded):
        gesso.generate("slow", num_inference_steps=ENDLESS, deadline=0.2)
    assert triton.requests[0].parameters["timeout"].int64_param == 200_000
    gesso.generate("a cat", num_inference_steps=1)
    assert "timeout" not in triton.requests[1].parameters


def test_one_client_serves_many_threads(gesso: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        seeds = list(pool.map(lambda seed: gesso.generate("a cat", seed=seed).seed, range(24)))
    assert seeds == list(range(24))


def test_the_async_client_speaks_the_same(triton: FakeTriton) -> None:
    async def main() -> None:
        async with AsyncClient(triton.url) as gesso:
            results = await asyncio.gather(*(gesso.inpaint(IMAGE, MASK, "a cat", seed=seed) for seed in range(8)))
            assert [result.seed for result in results] == list(range(8))
            assert all(np.array_equal(np.asarray(result.image), repainted(IMAGE, MASK)) for result in results)
            assert [info.name for info in await gesso.models()] == ["inpaint"]
            with pytest.raises(InvalidRequest) as caught:
                await gesso.generate("error: INVALID_ARG: seed: is odd")
            assert caught.value.field == "seed"
            with pytest.raises(NotFound):
                await gesso.info("nope")
            job = await gesso.submit(IMAGE, MASK, "cancelled", num_inference_steps=ENDLESS)
            other = await gesso.submit(IMAGE, MASK, "other", num_inference_steps=20)
            await anext(job.events())
            job.cancel()
            with pytest.raises(Cancelled):
                await job.result(timeout=5)
            assert (await other.result(timeout=5)).seed == 7
        with pytest.raises(ConnectionFailed, match="closed"):
            await gesso.generate("a cat")

    asyncio.run(main())
    assert until(lambda: triton.cancelled == ["cancelled"])


def test_dropping_an_async_stream_reaches_the_server(triton: FakeTriton) -> None:
    async def main() -> None:
        async with AsyncClient(triton.url) as gesso:
            async with aclosing(gesso.stream(IMAGE, MASK, "dropped", num_inference_steps=ENDLESS)) as events:
                await anext(events)
            assert await asyncio.to_thread(until, lambda: triton.cancelled == ["dropped"])

    asyncio.run(main())


def test_the_async_client_sees_a_broken_connection(triton: FakeTriton) -> None:
    async def main() -> None:
        wire = Wire(triton.port)
        async with AsyncClient(wire.url) as gesso:
            events = gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS)
            assert isinstance(await anext(events), Progress)
            wire.pull()
            with pytest.raises(ConnectionFailed):
                [event async for event in events]

    asyncio.run(main())
