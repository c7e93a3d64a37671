"""The loop on fake networks: who shares a call, whose failure it is, and that both loops say the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from backend.fakes import (
    WAIT_SECONDS,
    Arrays,
    FakeClient,
    FakeEngines,
    FakeTokenizer,
    Gate,
    engine_set,
    fake_bundle,
    hole,
    inputs,
    picture,
    prepared,
    serving,
    until,
)
from gesso_backend.errors import Cancelled, InternalError, RequestError
from gesso_backend.kinds.diffusion.diffusion import Diffusion
from gesso_backend.serving import batched
from gesso_backend.serving.batched import BatchedLoop
from gesso_backend.serving.job import Job
from gesso_backend.serving.metrics import NoMetrics
from gesso_backend.serving.outbox import Outbox
from gesso_backend.serving.policy import Unlimited, make
from gesso_backend.serving.run import Run

POISON = "!"  # a prompt that some engine hooks take exception to


def poisoned(arrays: Arrays) -> np.ndarray[Any, Any]:
    """Which rows belong to a request with the prompt POISON."""
    return np.asarray(arrays["encoder_hidden_states"][:, 0, 0] == np.float32(ord(POISON) / 128))


def run(
    requests: list[Arrays],
    before: Callable[[str, Arrays], None] = lambda network, arrays: None,
    engines: FakeEngines | None = None,
    **settings: Any,
) -> tuple[list[FakeClient], FakeEngines]:
    """Run requests that are all there before the first network call."""
    gate = Gate("text_encoder")

    def hook(network: str, arrays: Arrays) -> None:
        gate(network, arrays)
        before(network, arrays)

    engines = engines or FakeEngines(hook)
    clients = [FakeClient() for _ in requests]
    with serving(engines, settings=settings) as service:
        jobs = [service.submit(request, client) for request, client in zip(requests, clients, strict=True)]
        until(lambda: all(prepared(job) or job.ended for job in jobs))
        gate.open()
        for client in clients:
            client.wait()
    return clients, engines


class Listed(FakeClient):
    """Puts its name on a list when it has its final reply."""

    def __init__(self, name: str, finished: list[str]) -> None:
        super().__init__()
        self.name = name
        self._finished = finished

    def close(self, error: RequestError | None) -> None:
        self._finished.append(self.name)
        super().close(error)


def mixed(more_steps: int = 0) -> list[Arrays]:
    """Requests that differ in everything but the size of their canvas."""
    image, mask = picture(32, 48), hole(32, 48)
    return [
        inputs(prompt="a", num_inference_steps=2 + more_steps, scheduler="ddim", seed=1),
        inputs(prompt="b", num_inference_steps=4 + more_steps, scheduler="euler", guidance_scale=1.0, seed=2),
        inputs(prompt="c", num_inference_steps=3 + more_steps, scheduler="pndm", image=image, mask_image=mask, seed=3),
        inputs(prompt="d", num_inference_steps=5 + more_steps, scheduler="dpmpp_2m", image=image, strength=0.6, seed=4),
        inputs(prompt="e", num_inference_steps=3 + more_steps, scheduler="euler_ancestral", image=image, seed=5,
               mask_image=mask, strength=0.7, num_images_per_prompt=2, latent_blend=False),
    ]  # fmt: skip


def test_rows_of_different_requests_share_one_call() -> None:
    """Guards step-level batching itself: other step counts, samplers, guidance and tasks are no reason to run apart."""
    _, engines = run(mixed(more_steps=20), max_rows=32)
    fullest = max((arrays for network, arrays in engines.calls if network == "unet"), key=lambda a: len(a["timestep"]))
    assert len(fullest["timestep"]) == 2 + 1 + 2 + 2 + 4
    assert len(set(fullest["timestep"].tolist())) >= 4


def test_a_newcomer_joins_those_who_run() -> None:
    """Guards continuous batching: a request does not wait for the batch before it to finish."""
    gate = Gate("unet", nth=2)
    engines = FakeEngines(gate)
    finished: list[str] = []
    early, late = Listed("early", finished), Listed("late", finished)
    with serving(engines) as service:
        service.submit(inputs(num_inference_steps=20), early)
        gate.wait()
        job = service.submit(inputs(num_inference_steps=2), late)
        until(lambda: prepared(job))
        gate.open()
        assert late.wait() is None
        assert early.wait() is None
    assert finished == ["late", "early"]
    assert 4 in engines.rows("unet")


@pytest.mark.parametrize("max_rows", [1, 2, 3, 5, 8])
def test_no_call_exceeds_its_cap_unless_one_request_alone_does(max_rows: int) -> None:
    """Guards the operator's memory bound."""
    _, engines = run(mixed(), max_rows=max_rows, max_vae_rows=2)
    assert max(engines.rows("unet")) <= max(max_rows, 2)
    assert max(engines.rows("text_encoder")) <= max(max_rows, 2)
    assert max(engines.rows("vae_encoder")) <= 2
    assert max(engines.rows("vae_decoder")) <= 2


def test_guidance_of_one_costs_one_row() -> None:
    """Guards against paying twice for a guidance that changes nothing."""
    _, engines = run([inputs(guidance_scale=1.0, num_inference_steps=3)])
    assert engines.rows("text_encoder") == [1]
    assert engines.rows("unet") == [1, 1, 1]


def test_each_request_of_a_batch_gets_its_own_image() -> None:
    """Guards the field's worst batching bug, by name: NVIDIA's own tutorial once gave everyone the first image."""
    together, _ = run(mixed(), max_rows=32, max_vae_rows=8)
    alone = [run([request])[0][0] for request in mixed()]
    for busy, quiet in zip(together, alone, strict=True):
        assert [image.tobytes() for image in busy.images()] == [image.tobytes() for image in quiet.images()]
    assert len({image.tobytes() for client in together for image in client.images()}) == 6


def test_the_plain_loop_equals_the_batched_one_events_included() -> None:
    """The reference that can be switched on: whatever batching does, each client hears the same."""
    batched, _ = run(mixed(), max_rows=32)
    plain, engines = run(mixed(), loop="plain")
    assert max(engines.rows("unet")) == 2
    for some, others in zip(batched, plain, strict=True):
        heard = [
            sorted((e.index, e.step, e.event, e.num_steps, e.seed, e.image.tobytes()) for e in client.events)
            for client in (some, others)
        ]
        assert heard[0] == heard[1]


def test_requests_of_one_shape_finish_in_the_order_they_came() -> None:
    """Guards first come, first served over whole requests, under a cap that two fit in."""
    finished: list[str] = []
    gate = Gate("text_encoder")
    with serving(FakeEngines(gate), settings={"max_rows": 4}) as service:
        clients = [Listed(name, finished) for name in "abcdefgh"]
        jobs = [service.submit(inputs(prompt=client.name), client) for client in clients]
        until(lambda: all(prepared(job) for job in jobs))
        gate.open()
        for client in clients:
            assert client.wait() is None
    assert finished == sorted(finished)


@pytest.mark.parametrize("loop", ["batched", "plain"])
def test_a_failing_batch_fails_only_its_bad_request(loop: str) -> None:
    """Guards one bad request taking its batch-mates down: the batch is retried row by row."""

    def refuse(network: str, arrays: Arrays) -> None:
        if network == "unet" and poisoned(arrays).any():
            raise RuntimeError("no kernel")

    requests = [inputs(prompt=prompt, seed=5) for prompt in ("a", POISON, "b")]
    clients, _ = run(requests, refuse, loop=loop)
    error = clients[1].wait()
    assert isinstance(error, InternalError)
    assert str(error) == "INTERNAL: RuntimeError: the server's log says why"
    for client, prompt in ((clients[0], "a"), (clients[2], "b")):
        assert client.images()[0].tobytes() == run([inputs(prompt=prompt, seed=5)])[0][0].images()[0].tobytes()


def test_a_batch_that_fails_only_as_a_batch_is_nobodys_error() -> None:
    """Guards the retry: out of memory at eight rows is no reason to fail four requests of two."""

    def too_large(network: str, arrays: Arrays) -> None:
        if network == "unet" and len(arrays["timestep"]) > 2:
            raise MemoryError("too many rows")

    clients, engines = run([inputs(prompt=prompt) for prompt in "abcd"], too_large)
    assert all(client.wait() is None for client in clients)
    assert max(engines.rows("unet")) == 2


@pytest.mark.parametrize("loop", ["batched", "plain"])
def test_nan_from_the_denoiser_is_an_error_of_that_request_only(loop: str) -> None:
    """Guards half-precision overflow: its black picture must not pass for a result, nor spoil the neighbours'."""
    engines = FakeEngines()
    unet = engines["unet"]

    def spoiled(**arrays: Any) -> Arrays:
        outputs = unet(**arrays)
        outputs["noise_pred"][poisoned(arrays)] = np.nan
        return outputs

    engines["unet"] = spoiled
    clients, _ = run([inputs(prompt=prompt) for prompt in ("a", POISON, "b")], engines=engines, loop=loop)
    error = clients[1].wait()
    assert error is not None
    assert (error.code, error.text) == ("INTERNAL", "the unet gave NaN or infinity at step 1")
    assert clients[0].wait() is None
    assert clients[2].wait() is None


@pytest.mark.parametrize("loop", ["batched", "plain"])
@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_an_engine_that_answers_the_wrong_number_of_rows_is_caught(network: str, loop: str) -> None:
    """Guards against rows shifting silently, so that a request gets its neighbour's latents."""
    engines = FakeEngines()
    honest = engines[network]
    engines[network] = lambda **arrays: {name: array[1:] for name, array in honest(**arrays).items()}
    request = inputs(image=picture(32, 48), mask_image=hole(32, 48))
    (client,), _ = run([request], engines=engines, loop=loop)
    error = client.wait()
    assert error is not None
    assert error.code == "INTERNAL"
    assert f"{network} answered" in error.text


@pytest.mark.parametrize("loop", ["batched", "plain"])
def test_an_engine_without_the_promised_output_fails_the_request_not_the_loop(loop: str) -> None:
    """Guards the loop's life against an engine that breaks its contract."""
    engines = FakeEngines()
    unet = engines["unet"]
    engines["unet"] = lambda **arrays: unet(**arrays) if not poisoned(arrays).any() else {}
    (bad, good), _ = run([inputs(prompt=POISON), inputs(prompt="a")], engines=engines, loop=loop, max_rows=2)
    error = bad.wait()
    assert error is not None
    assert error.code == "INTERNAL"
    assert good.wait() is None


def test_a_failed_image_ends_the_whole_request_and_frees_its_other_rows() -> None:
    """Guards a request of several images: one error, one reply, and no work for what nobody will see."""
    engines = FakeEngines()
    decoder = engines["vae_decoder"]
    decoded: list[int] = []

    def fails_once(**arrays: Any) -> Arrays:
        decoded.append(1)
        if len(decoded) == 1:
            raise RuntimeError("first image only")
        return decoder(**arrays)

    engines["vae_decoder"] = fails_once
    (client,), _ = run([inputs(num_images_per_prompt=4)], engines=engines)
    error = client.wait()
    assert error is not None
    assert error.text == "RuntimeError: the server's log says why"
    assert len(decoded) == 1


def test_nothing_is_said_after_a_requests_error() -> None:
    """Guards the final reply against the request's other images, whose steps were part of the same call."""
    engines = FakeEngines()
    unet = engines["unet"]

    def first_image_breaks(**arrays: Any) -> Arrays:
        outputs = unet(**arrays)
        if len(arrays["timestep"]) == 4:
            outputs["noise_pred"][:2] = np.nan
        return outputs

    engines["unet"] = first_image_breaks
    request = inputs(num_images_per_prompt=2, num_inference_steps=3)
    (client,), _ = run([request], engines=engines)
    assert client.wait() is not None
    assert engines.rows("unet") == [4]  # both images were in the call, and neither in another
    assert client.late == []


def test_a_queue_of_mixed_shapes_makes_progress() -> None:
    """Guards against a shape that is never scheduled: twelve sizes at once, all end."""
    sizes = [(height, width) for height in (16, 32, 48) for width in (16, 40, 64, 80)]
    requests = [inputs(height=height, width=width, num_inference_steps=2 + height % 3) for height, width in sizes]
    clients, _ = run(requests, max_rows=4)
    assert [client.images()[0].shape[:2] for client in clients] == sizes


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    box = Outbox()
    yield box
    box.close()


def test_a_cancel_that_comes_while_the_aborted_are_dropped_is_not_lost(outbox: Outbox) -> None:
    """Guards a race once here: the loop read each job's cause twice, and a job cancelled in between was dropped
    without ever getting its final reply."""
    # Text, then denoising: the two go side by side.
    kind = Diffusion(fake_bundle(in_channels=4), {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]
    gate = Gate("unet")
    loop = BatchedLoop(engine_set(FakeEngines(gate)), outbox, NoMetrics(), make("srpt", Unlimited()))
    jobs: list[Job] = []

    def prepared(client: FakeClient, on_end: Callable[[Job], None]) -> Run:
        job = Job(client, outbox, NoMetrics(), on_end)
        jobs.append(job)
        prepared = kind.prepare(kind.parse(inputs()))
        return Run(job, kind, prepared, kind.work(prepared))

    first, second = FakeClient(), FakeClient()
    loop.submit(prepared(first, lambda job: None))
    # The loop ends the second, and in that moment the first is cancelled too.
    loop.submit(prepared(second, lambda job: jobs[0].abort(Cancelled("in between"))))
    loop.start()
    gate.wait()
    jobs[1].abort(Cancelled("first of all"))
    gate.open()
    assert str(second.wait()) == "CANCELLED: first of all"
    assert str(first.wait()) == "CANCELLED: in between"
    loop.close()


def test_closing_an_idle_loop_takes_no_time(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards shutdown against a last round of waiting for requests that can no longer come."""
    monkeypatch.setattr(batched, "WAKE_SECONDS", 100 * WAIT_SECONDS)
    loop = BatchedLoop(engine_set(FakeEngines()), outbox, NoMetrics(), make("srpt", Unlimited()))
    loop.start()
    closing = threading.Thread(target=loop.close, daemon=True)
    closing.start()
    closing.join(WAIT_SECONDS)
    assert not loop.alive
