"""The asynchronous client does what the synchronous one does."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import numpy as np
import pytest

from client.tiny import IMAGE, MASK, MODELS, PICTURE, PROGRESS, repainted
from gesso_client import (
    AsyncClient,
    AsyncJob,
    Cancelled,
    Client,
    Image,
    InvalidRequest,
    Job,
    NotFound,
    Progress,
    ServerError,
    Unavailable,
)
from gesso_client.testing import AsyncFakeTransport, FakeTransport
from gesso_client.transport.threaded import ThreadedTransport

BUSY = Unavailable("the queue is full")


async def no_sleep(seconds: float) -> None:
    pass


def test_both_clients_have_the_same_methods() -> None:
    for one, other in ((Client, AsyncClient), (Job, AsyncJob)):
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(other) if not name.startswith("_")}
        for name in names - {"progress"}:
            parameters = [list(inspect.signature(getattr(kind, name)).parameters) for kind in (one, other)]
            assert parameters[0] == parameters[1], name


@pytest.mark.parametrize("make", [AsyncFakeTransport, lambda **models: ThreadedTransport(FakeTransport(**models))])
def test_every_call_answers(make: Any) -> None:
    async def main() -> None:
        async with AsyncClient(transport=make(models=MODELS)) as gesso:
            assert np.array_equal(np.asarray((await gesso.inpaint(IMAGE, MASK, "a cat")).image), repainted(IMAGE, MASK))
            assert (await gesso.transform(IMAGE, "a cat")).image.size == (6, 4)
            assert (await gesso.generate("a cat", height=16, width=24)).image.size == (24, 16)
            events = [event async for event in gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=2)]
            assert [type(event) for event in events] == [Progress, Progress, Image]
            assert [info.name for info in await gesso.models()] == ["inpaint"]
            assert (await gesso.info()).native_size == 64
            with pytest.raises(NotFound):
                await gesso.info("resnet")

    asyncio.run(main())


def test_bounds_are_checked_before_anything_is_sent() -> None:
    async def main() -> None:
        transport = AsyncFakeTransport(models=MODELS)
        gesso = AsyncClient(transport=transport)
        with pytest.raises(InvalidRequest, match="seed: -2 is below"):
            await gesso.inpaint(IMAGE, MASK, "a cat", seed=-2)
        with pytest.raises(InvalidRequest, match="steps: unknown option"):
            await gesso.submit(IMAGE, MASK, "a cat", steps=1)
        assert transport.requests == []

    asyncio.run(main())


def test_only_an_unavailable_server_is_asked_again() -> None:
    async def main() -> None:
        transport = AsyncFakeTransport([BUSY], [BUSY])
        assert (await AsyncClient(transport=transport, sleep=no_sleep).generate("a cat", deadline=60)).seed == 7
        deadlines = [request.deadline for request in transport.requests]
        assert len(deadlines) == 3
        assert deadlines == sorted(deadlines, reverse=True)
        for script in ([ServerError("x")], [PROGRESS, BUSY]):
            transport = AsyncFakeTransport(script)
            with pytest.raises((ServerError, Unavailable)):
                await AsyncClient(transport=transport, sleep=no_sleep).generate("a cat")
            assert len(transport.requests) == 1

    asyncio.run(main())


def test_an_answer_that_ends_too_early_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(ServerError, match="ended after 0 of 1"):
            await AsyncClient(transport=AsyncFakeTransport([PROGRESS])).generate("a cat")

    asyncio.run(main())


def waiting(requests: int = 1) -> tuple[AsyncFakeTransport, asyncio.Event]:
    """A server that sends one event and then works until the event is set."""
    go = asyncio.Event()
    return AsyncFakeTransport(*[[PROGRESS, lambda _: go.wait(), PICTURE]] * requests), go


def test_a_job_runs_in_the_background() -> None:
    async def main() -> None:
        transport, go = waiting()
        job = await AsyncClient(transport=transport).submit(IMAGE, MASK, "a cat")
        live = job.events()
        assert await anext(live) == Progress(1, 1, 0) == job.progress
        assert not job.done()
        with pytest.raises(TimeoutError):
            await job.result(timeout=0.01)
        go.set()
        assert (await job.result(timeout=5)).seed == 7
        assert isinstance(await anext(live), Image)
        assert [type(event) async for event in job.events()] == [Progress, Image]
        assert job.done()

    asyncio.run(main())


@pytest.mark.parametrize("started", [True, False])
def test_cancelling_a_job_ends_its_call_and_no_other(started: bool) -> None:
    async def main() -> None:
        transport, go = waiting(2)
        gesso = AsyncClient(transport=transport)
        other = await gesso.submit(IMAGE, MASK, "a dog")
        job = await gesso.submit(IMAGE, MASK, "a cat")
        if started:
            await anext(job.events())
        for _ in range(2):
            job.cancel()
        with pytest.raises(Cancelled):
            await job.result(timeout=5)
        with pytest.raises(Cancelled):
            [event async for event in job.events()]
        assert [call.cancelled.is_set() for call in transport.calls] == [False, True][: 1 + started]
        go.set()
        assert (await other.result(timeout=5)).seed == 7

    asyncio.run(main())


def test_cancelling_the_task_ends_the_call() -> None:
    async def main() -> None:
        transport, _ = waiting()
        task = asyncio.ensure_future(AsyncClient(transport=transport).generate("a cat"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [call.cancelled.is_set() for call in transport.calls] == [True]

    asyncio.run(main())


def test_a_failed_job_raises_what_happened() -> None:
    async def main() -> None:
        gesso = AsyncClient(transport=AsyncFakeTransport([PROGRESS, ServerError("engine on fire")]))
        job = await gesso.submit(IMAGE, MASK, "a cat")
        for _ in range(2):
            with pytest.raises(ServerError, match="engine on fire"):
                await job.result(timeout=5)
        with pytest.raises(ServerError, match="engine on fire"):
            [event async for event in job.events()]

    asyncio.run(main())
