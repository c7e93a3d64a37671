"""Clients and jobs beyond their event loop, their process, their close; and lengths of time (grpc/grpc#32480)."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from client.servers import FakeTriton, FakeTritonHttp
from client.tiny import IMAGE, MASK, MODELS, PICTURE, PROGRESS, client
from client.until import until
from gesso_client import AsyncClient, Cancelled, Client, ConnectionFailed, GessoError, Image, InvalidRequest
from gesso_client.testing import AsyncFakeTransport

ENDLESS = 1000  # steps
LONG = [sys.maxsize, 10**400, float(2**70), 1e12, np.int64(2**62), Fraction(10**12)]


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    server: Any = FakeTriton(0.01) if request.param == "grpc" else FakeTritonHttp(0.01)
    yield server.url
    server.stop()


@pytest.mark.parametrize("seconds", LONG, ids=lambda seconds: type(seconds).__name__)
def test_a_deadline_beyond_all_clocks_is_none(url: str, seconds: Any) -> None:
    """grpc/grpc#32480: a raw ValueError or OverflowError."""
    with Client(url) as gesso:
        assert gesso.generate("a cat", deadline=seconds).seed == 7
        assert len(list(gesso.stream(None, None, "a cat", deadline=seconds))) == 5


@pytest.mark.parametrize("seconds", [1e9, 1e8, np.float32(5), Fraction(7, 2)])
def test_a_long_deadline_is_kept(url: str, seconds: Any) -> None:
    with Client(url) as gesso:
        assert gesso.generate("a cat", deadline=seconds).seed == 7
        assert len(list(gesso.stream(None, None, "a cat", deadline=seconds))) == 5


@pytest.mark.parametrize("seconds", [math.nan, -math.inf, math.inf, -1, -sys.maxsize, 0, np.float64("nan"), 1j, b"1"])
def test_a_deadline_that_is_none_is_refused(seconds: Any) -> None:
    gesso, transport = client([PICTURE])
    with pytest.raises(InvalidRequest) as caught:
        gesso.generate("a cat", deadline=seconds)
    assert (caught.value.field, transport.requests) == ("deadline", [])


def test_a_job_can_be_waited_for_as_long_as_one_likes() -> None:
    go = threading.Event()
    gesso, _ = client(*[[lambda _: go.wait(5), PICTURE]] * 2)
    job = gesso.submit(IMAGE, MASK, "a cat")
    for seconds in (-1, -math.inf, 0, 1e-9, np.float32(0.001)):
        with pytest.raises(TimeoutError):
            job.result(timeout=seconds)  # type: ignore[arg-type]
    for unfit in (math.nan, "5", True):
        with pytest.raises(InvalidRequest) as caught:
            job.result(timeout=unfit)  # type: ignore[arg-type]
        assert caught.value.field == "timeout"
    waiting: list[Any] = []
    threads = [
        threading.Thread(target=lambda seconds=seconds: waiting.append(job.result(timeout=seconds)))
        for seconds in (*LONG, math.inf, None)
    ]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(5)
    assert len(waiting) == len(threads)


def test_an_async_job_likewise(url: str) -> None:
    async def main() -> None:
        async with AsyncClient(url) as gesso:
            job = await gesso.submit(None, None, "a cat", num_inference_steps=ENDLESS)
            with pytest.raises(InvalidRequest):
                await job.result(timeout=math.nan)
            with pytest.raises(TimeoutError):
                await job.result(timeout=-1)
            job.cancel()
            with pytest.raises(Cancelled):
                await job.result(timeout=sys.maxsize)

    asyncio.run(main())


def test_a_client_goes_on_in_the_loop_after_its_own(url: str) -> None:
    """grpc/grpc#32480: RuntimeError, event loop is closed."""
    gesso = AsyncClient(url)

    async def ask() -> int:
        return (await gesso.generate("a cat")).seed

    assert [asyncio.run(ask()) for _ in range(3)] == [7] * 3
    asyncio.run(gesso.close())
    with pytest.raises(ConnectionFailed, match="the client is closed"):
        asyncio.run(ask())


def test_a_client_in_two_loops_at_once_works_or_says_so(url: str) -> None:
    gesso = AsyncClient(url)

    async def ask() -> int:
        return (await gesso.generate("a cat")).seed

    async def main() -> None:
        assert await ask() == 7
        if url.startswith("http"):
            assert await asyncio.to_thread(asyncio.run, ask()) == 7
        else:
            with pytest.raises(ConnectionFailed, match="in use in another event loop; make an AsyncClient in each"):
                await asyncio.to_thread(asyncio.run, ask())
        assert await ask() == 7
        await gesso.close()

    asyncio.run(main())


def test_a_job_in_another_loop_says_so_and_a_finished_one_works(url: str) -> None:
    gesso = AsyncClient(url)

    async def submit(steps: int) -> Any:
        job = await gesso.submit(None, None, "a cat", num_inference_steps=steps)
        if steps < ENDLESS:
            await job.result()
        else:
            await anext(job.events())
        return job

    async def result(job: Any) -> Any:
        return await job.result(timeout=5)

    async def events(job: Any) -> list[Any]:
        return [event async for event in job.events()]

    finished = asyncio.run(submit(4))
    assert asyncio.run(result(finished)).seed == 7
    assert len(asyncio.run(events(finished))) == 5
    ended = asyncio.run(submit(ENDLESS))  # asyncio.run cancels what is left over
    with pytest.raises(Cancelled):
        asyncio.run(result(ended))
    ended.cancel()

    async def main() -> None:
        running = await submit(ENDLESS)
        for wait in (result, events):
            with pytest.raises(ConnectionFailed, match="belongs to the event loop"):
                await asyncio.to_thread(asyncio.run, wait(running))
        await asyncio.to_thread(running.cancel)
        with pytest.raises(Cancelled):
            await running.result(timeout=5)

    asyncio.run(main())


def test_closing_an_async_client_ends_what_runs_with_an_error_of_ours(url: str) -> None:
    """A CancelledError of gRPC's came out of a task that nobody had cancelled."""

    async def main() -> None:
        gesso = AsyncClient(url)
        events = gesso.stream(None, None, "a cat", num_inference_steps=ENDLESS)
        await anext(events)

        async def follow() -> None:
            async for _ in events:
                pass

        task = asyncio.create_task(follow())
        await asyncio.sleep(0)  # it waits for the next event now
        await gesso.close()
        with pytest.raises(Cancelled):
            await task
        for call in (gesso.generate("a cat"), gesso.models(), gesso.info("inpaint_once")):
            with pytest.raises(ConnectionFailed, match="the client is closed"):
                await call
        await gesso.close()

    asyncio.run(main())


def test_a_closed_client_says_so_whatever_it_is_asked(url: str) -> None:
    gesso = Client(url)
    gesso.close()
    gesso.close()
    for call in (lambda: gesso.generate("a cat"), gesso.models, gesso.info, lambda: list(gesso.stream(None, None, ""))):
        with pytest.raises(ConnectionFailed, match="the client is closed"):
            call()


def in_a_fork(check: Callable[[], None]) -> None:
    """Run `check` there; it may not hang, nor fail."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            threading.Timer(10, lambda: os._exit(3)).start()
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_during_a_job_says_so_there_and_does_no_harm_here() -> None:
    """The job's thread is not in the fork: it waited for ever, and a cancel there cut the connection here."""
    server = FakeTritonHttp(0.005)  # gRPC's own server does not survive a fork beside it
    with Client(server.url) as gesso:
        job = gesso.submit(None, None, "a cat", num_inference_steps=60)
        stream = gesso.stream(None, None, "a dog", num_inference_steps=60)
        next(stream)
        assert until(lambda: job.progress is not None)

        def check() -> None:
            asked: list[Callable[[], Any]] = [
                *(lambda: gesso.generate("x"), gesso.models, gesso.info, job.result, job.done),
                *(lambda: job.progress, lambda: next(job.events()), lambda: next(stream)),
            ]
            for call in asked:
                with pytest.raises(ConnectionFailed, match="before this process was forked"):
                    call()
            job.cancel()
            stream.close()  # type: ignore[attr-defined]
            gesso.close()
            with Client(server.url) as other:
                assert other.generate("x").seed == 7

        in_a_fork(check)
        assert job.result(timeout=10).seed == 7
        assert len(list(stream)) == 60
    server.stop()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_async_client_in_a_fork_says_so() -> None:
    server = FakeTritonHttp()
    gesso = AsyncClient(server.url)

    def check() -> None:
        async def main() -> None:
            for call in (gesso.generate("x"), gesso.models(), gesso.submit(None, None, "x")):
                with pytest.raises(ConnectionFailed, match="forked"):
                    await call
            await gesso.close()

        asyncio.run(main())

    in_a_fork(check)
    server.stop()


def test_an_async_job_that_is_cancelled_has_its_pictures_too() -> None:
    picture = Image(PILImage.new("RGB", (48, 32)), 7, 0, {})

    async def main() -> None:
        hold = asyncio.Event()
        transport = AsyncFakeTransport([picture, lambda call: hold.wait()], models=MODELS)
        async with AsyncClient(transport=transport) as gesso:
            job = await gesso.submit(None, None, "x", num_images_per_prompt=2)
            await anext(job.events())
            job.cancel()
            with pytest.raises(Cancelled) as caught:
                await job.result(timeout=5)
            assert [each.seed for each in caught.value.finished] == [7]

    asyncio.run(main())


def test_pictures_that_were_there_before_an_error_are_with_it() -> None:
    """Two of three were finished, and lost."""
    pictures = [PICTURE, type(PICTURE)(PICTURE.image, 8, 1, {})]
    script = [PROGRESS, *pictures, ConnectionFailed("the connection broke")]
    gesso, _ = client(script, script, script, [PROGRESS, *pictures])
    calls: list[Callable[[], Any]] = [
        lambda: gesso.inpaint(IMAGE, MASK, "x", num_images_per_prompt=3),
        lambda: list(gesso.stream(IMAGE, MASK, "x", num_images_per_prompt=3)),
        lambda: gesso.submit(IMAGE, MASK, "x", num_images_per_prompt=3).result(timeout=5),
        lambda: gesso.inpaint(IMAGE, MASK, "x", num_images_per_prompt=3),  # which ended early
    ]
    for call in calls:
        with pytest.raises(GessoError) as caught:
            call()
        assert [picture.seed for picture in caught.value.finished] == [7, 8]
