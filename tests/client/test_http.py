"""Both clients over real HTTP, against a fake Triton on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from client.servers import FakeTritonHttp
from client.tiny import description, repainted
from client.until import until
from gesso_client import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Image,
    InvalidRequest,
    ModelInfo,
    NotFound,
    Progress,
    Unsupported,
)
from gesso_client.request import build
from gesso_client.transport import http_messages
from gesso_client.transport.address import Address
from gesso_client.transport.exchange import Exchange

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
MASK = np.eye(20, 30, dtype=bool)
ENDLESS = 1000  # steps


@pytest.fixture
def triton() -> Iterator[FakeTritonHttp]:
    fake = FakeTritonHttp(step_s=0.01)
    yield fake
    fake.stop()


@pytest.fixture
def gesso(triton: FakeTritonHttp) -> Iterator[Client]:
    with Client(triton.url) as client:
        yield client


def test_a_single_picture_goes_as_raw_tensors_to_the_one_response_twin(gesso: Client, triton: FakeTritonHttp) -> None:
    result = gesso.inpaint(IMAGE, MASK, 'hé 日本 😀 "q"', seed=2**62)
    assert np.array_equal(np.asarray(result.image), repainted(IMAGE, MASK))
    assert result.seed == 2**62
    assert triton.paths == ["/v2/models/inpaint/config", "/v2/models/inpaint_once/infer"]


def test_what_is_followed_or_more_than_one_goes_through_generate_stream(gesso: Client, triton: FakeTritonHttp) -> None:
    events = list(gesso.stream(IMAGE, MASK, 'hé 日本 😀 "q"', num_inference_steps=2, seed=2**62))
    assert [type(event) for event in events] == [Progress, Progress, Image]
    assert np.array_equal(np.asarray(events[-1].image), repainted(IMAGE, MASK))
    assert events[-1].seed == 2**62
    result = gesso.inpaint(IMAGE, MASK, "a cat", num_images_per_prompt=2, seed=5)
    assert [picture.seed for picture in result.pictures] == [5, 6]
    assert set(triton.paths[1:]) == {"/v2/models/inpaint/generate_stream"}
    assert [event.image.size for event in gesso.stream(None, None, "a cat") if isinstance(event, Image)] == [(48, 32)]


def test_generate_bodies_are_flat_and_say_the_size(gesso: Client) -> None:
    """Triton's generate_stream refuses nested lists and delivers flat ones as a single row."""
    options = {"guidance_scale": 0.7, "latent_blend": False, "seed": 0}
    request = build(gesso.info(), "inpaint", "a cat", IMAGE, MASK, options, live=True)  # type: ignore[arg-type]
    fields = json.loads(http_messages.generate_body(request)[0])
    assert fields.pop("image") == IMAGE.ravel().tolist()
    assert fields.pop("mask_image") == np.where(MASK, 255, 0).ravel().tolist()
    scalars = {"prompt": "a cat", "guidance_scale": 0.7, "latent_blend": False, "seed": 0}
    assert fields == scalars | {"height": 20, "width": 30}


def test_infer_bodies_carry_the_deadline() -> None:
    info = ModelInfo.parse("inpaint", description())
    body, headers = http_messages.infer_body(
        build(info, "text_to_image", "x", None, None, {"deadline": 0.5}, live=False)
    )
    header = json.loads(body[: int(headers[http_messages.HEADER_LENGTH])])
    assert header["parameters"] == {"binary_data_output": True, "timeout": 500_000}


def test_previews_are_refused(gesso: Client) -> None:
    with pytest.raises(Unsupported, match="gRPC") as caught:
        list(gesso.stream(IMAGE, MASK, "a cat", preview_every=2))
    assert caught.value.field == "preview_every"
    assert len(list(gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=1, preview_every=0))) == 2


@pytest.mark.parametrize("live", [False, True])
def test_the_servers_errors_arrive_typed(gesso: Client, live: bool) -> None:
    def run(prompt: str) -> None:
        list(gesso.stream(None, None, prompt)) if live else gesso.generate(prompt)

    with pytest.raises(InvalidRequest) as caught:
        run("error: INVALID_ARG: seed: is odd")
    assert (str(caught.value), caught.value.field) == ("seed: is odd", "seed")
    with pytest.raises(NotFound):
        run("error: NOT_FOUND: scheduler: 'x'")


def test_models_are_listed(gesso: Client) -> None:
    assert [info.name for info in gesso.models()] == ["inpaint"]
    with pytest.raises(NotFound) as caught:
        gesso.info("nope")
    assert caught.value.field == "model"
    with pytest.raises(NotFound):
        gesso.info("../../etc")


def test_cancelling_a_followed_job_hangs_up(gesso: Client, triton: FakeTritonHttp) -> None:
    job = gesso.submit(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS)
    assert until(lambda: job.progress is not None)
    job.cancel()
    with pytest.raises(Cancelled):
        job.result(timeout=5)
    assert until(triton.hung_up.is_set)


def test_closing_the_client_ends_what_runs(triton: FakeTritonHttp) -> None:
    gesso = Client(triton.url)
    job = gesso.submit(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS)
    assert until(lambda: job.progress is not None)
    gesso.close()
    with pytest.raises(Cancelled):
        job.result(timeout=5)
    with pytest.raises(ConnectionFailed, match="closed"):
        gesso.generate("a cat")


def test_a_connection_that_breaks_is_no_end(gesso: Client) -> None:
    """http.client's readline takes a broken chunked answer for a finished one."""
    with pytest.raises(ConnectionFailed, match="broke"):
        list(gesso.stream(None, None, "break off"))


def test_nobody_there_is_said_at_once() -> None:
    started = time.monotonic()
    with Client("http://127.0.0.1:9") as gesso, pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
        gesso.generate("a cat")
    assert time.monotonic() - started < 5


def test_a_followed_request_keeps_its_deadline_itself(gesso: Client, triton: FakeTritonHttp) -> None:
    """generate_stream has no timeout of its own."""
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        list(gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS, deadline=0.2))
    assert time.monotonic() - started < 2
    assert until(triton.hung_up.is_set)


def test_a_silent_server_does_not_hold_a_request_with_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso_client.transport.http_sync.GRACE_S", 0.1)
    triton = FakeTritonHttp(step_s=5)
    with Client(triton.url) as gesso, pytest.raises(DeadlineExceeded):
        gesso.generate("a cat", deadline=0.1)
    triton.stop()


def test_the_async_client_speaks_the_same(triton: FakeTritonHttp) -> None:
    async def main() -> None:
        async with AsyncClient(triton.url) as gesso:
            results = await asyncio.gather(*(gesso.inpaint(IMAGE, MASK, "a cat", seed=seed) for seed in range(8)))
            assert [result.seed for result in results] == list(range(8))
            job = await gesso.submit(IMAGE, MASK, "a cat", num_inference_steps=ENDLESS)
            assert isinstance(await anext(job.events()), Progress)
            job.cancel()
            with pytest.raises(Cancelled):
                await job.result(timeout=5)
            assert await asyncio.to_thread(triton.hung_up.wait, 5)

    asyncio.run(main())


def test_bytes_that_trickle_in_do_not_hold_a_request_with_a_deadline() -> None:
    """A socket's timeout begins anew with every byte: a slow answer never ended."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def trickle() -> None:
        near, _ = listener.accept()
        with near, contextlib.suppress(OSError):
            near.recv(1 << 16)
            near.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stopped.wait(0.02):
                near.sendall(b"{")

    thread = threading.Thread(target=trickle)
    thread.start()
    exchange = Exchange(Address("http", "127.0.0.1", listener.getsockname()[1]), 0.2)
    with pytest.raises(DeadlineExceeded):
        exchange.whole(exchange.get("/v2"))
    exchange.close()
    stopped.set()
    thread.join()
    listener.close()
