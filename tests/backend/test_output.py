"""How much a server may have sent that nobody has read yet: Triton keeps all of it (F3)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from backend.fakes import (
    WAIT_SECONDS,
    FakeClient,
    FakeClock,
    FakeEngines,
    FakeTokenizer,
    Gate,
    code,
    fake_bundle,
    hole,
    inpaint,
    inputs,
    picture,
    prepared,
    serving,
    until,
)
from gesso_backend.errors import Unavailable
from gesso_backend.kinds.diffusion.diffusion import Diffusion
from gesso_backend.kinds.diffusion.paint import shrink, shrunk
from gesso_backend.serving.events import Event


def large(**values: Any) -> dict[str, Any]:
    """Of 3 MiB a picture."""
    side = 1024
    return inputs(image=picture(side, side), mask_image=hole(side, side), padding_mask_crop=-1, **values)


def kind() -> Diffusion:
    return Diffusion(fake_bundle(), {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]


@pytest.mark.parametrize(("asked", "size"), [({}, (512, 512)), ({"preview_size": 64}, (64, 64))])
def test_a_preview_is_small_and_the_picture_is_not(asked: dict[str, int], size: tuple[int, int]) -> None:
    """Guards Triton's memory: previews of a picture's own size, 200 of 48 MB, were 6.9 GiB in 36 s."""
    client = FakeClient()
    with serving() as service:
        service.submit(large(preview_every=1, scheduler="euler", **asked), client)
        client.images()
    shapes = {event.event: event.image.shape for event in client.events}
    assert shapes == {"progress": (0, 0, 3), "preview": (*size, 3), "image": (1024, 1024, 3)}


def test_a_preview_keeps_what_the_mask_keeps() -> None:
    """Guards the shrunk preview: it shows the picture, in its place."""
    client = FakeClient()
    request = large(preview_every=1, preview_size=256, scheduler="euler")
    with serving() as service:
        service.submit(request, client)
        client.images()
    preview = next(event.image for event in client.events if event.event == "preview")
    kept = shrink(np.where(request["mask_image"][..., None] > 0, 255, request["image"]).astype(np.uint8), 256)
    outside = shrink(np.repeat(request["mask_image"][..., None], 3, 2), 256)[..., 0] == 0
    np.testing.assert_array_equal(preview[outside], kept[outside])
    assert outside.any()


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((61, 83), 512, (61, 83)), ((512, 512), 512, (512, 512)), ((513, 1), 512, (512, 1)),
        ((1, 32000), 16, (1, 16)), ((3000, 4000), 512, (384, 512)), ((4000, 3000), 512, (512, 384)),
    ],
)  # fmt: skip
def test_a_shrunk_picture_has_its_longer_side_at_most(
    size: tuple[int, int], longest: int, expected: tuple[int, int]
) -> None:
    """Guards strips and pictures that are small already, which are never enlarged."""
    assert shrunk(size, longest) == expected
    assert shrink(np.zeros((*size, 3), np.uint8), longest).shape == (*expected, 3)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"preview_every": 1, "num_inference_steps": 50, "preview_size": 1024}, "preview_every"),
        ({"preview_every": 1, "num_inference_steps": 9, "num_images_per_prompt": 8}, "preview_every"),
        ({"num_images_per_prompt": 8}, "num_images_per_prompt"),
    ],
)
def test_a_request_that_would_be_sent_too_much_is_refused(asked: dict[str, int], field: str) -> None:
    """Guards the bound of one request, which `limits` publishes: refused by name before anything runs."""
    engines, client = FakeEngines(), FakeClient()
    with serving(engines, settings={"max_preview_mib": 20, "max_output_mib": 20}) as service:
        service.submit(large(scheduler="euler", **asked), client)
        message = str(client.wait())
    assert message.startswith(f"INVALID_ARG: {field}: ")
    assert f"the maximum is {20 * 2**20}" in message
    assert engines.calls == []


def test_what_is_announced_is_what_is_sent() -> None:
    """Guards the bound against drift: pictures and previews as they leave, counted."""
    client, made = FakeClient(), kind()
    asked = large(preview_every=4, preview_size=100, num_images_per_prompt=2, num_inference_steps=7)
    with serving(kind=made) as service:
        work = made.work(made.prepare(made.parse(asked)))
        service.submit(asked, client)
        client.images()
    sent = {name: sum(e.image.nbytes for e in client.events if e.event == name) for name in ("image", "preview")}
    assert (work.picture_bytes, work.preview_bytes) == (sent["image"], sent["preview"])
    assert sent["preview"] == 2 * 100 * 100 * 3


def test_all_requests_together_are_bounded() -> None:
    """Guards a flood of requests that are each within the bound: the one that does not fit is told to try again, and
    what one has taken the next may have."""
    gate = Gate("unet")
    first, second, third = FakeClient(), FakeClient(), FakeClient()
    with serving(FakeEngines(gate), settings={"max_output_mib": 4}) as service:
        job = service.submit(large(), first)
        until(lambda: prepared(job))
        service.submit(large(), second)
        assert str(second.wait()) == "UNAVAILABLE: the queue is full (4 MiB to be sent)"
        gate.open()
        assert code(first.wait()) == "OK"
        until(lambda: not service._admission.jobs)
        service.submit(large(), third)
        assert code(third.wait()) == "OK"


def test_what_nobody_has_read_counts_though_its_job_has_ended() -> None:
    """Guards Triton's memory against many streams that nobody reads, one after another: to us each had ended well."""
    held = 0
    refused, served = FakeClient(), FakeClient()
    with serving(settings={"max_input_mib": 3, "max_output_mib": 4}, unread=lambda: held) as service:
        held = 7 * 2**20 + 1
        service.submit(inpaint(), refused)
        assert str(refused.wait()) == "UNAVAILABLE: the server holds too much that clients have not read"
        with pytest.raises(Unavailable):
            service.check_room()
        held = 7 * 2**20
        service.submit(inpaint(), served)
        assert code(served.wait()) == "OK"


def test_what_is_never_given_back_ends_triton_once_nothing_runs() -> None:
    """Guards against refusing for good: Triton 24.10 keeps all of a stream that is cancelled after its end, whatever
    happens, so it has to be started again; not while somebody's picture is made, nor while the last ones are read."""
    held, clock, died, gate = 0, FakeClock(), threading.Event(), Gate("unet")
    client = FakeClient()
    settings = {"max_input_mib": 1, "max_output_mib": 1, "stall_seconds": 1e6}
    with serving(FakeEngines(gate), settings=settings, clock=clock, on_dead=died.set, unread=lambda: held) as service:
        service.submit(inpaint(), client)
        gate.wait()
        held = 2 * 2**20 + 1
        clock.now += 1000
        assert not died.wait(0.1)
        gate.open()
        assert code(client.wait()) == "OK"
        until(lambda: service._watch._overgrown_since is not None)
        clock.now += 59
        assert not died.wait(0.1)
        held = 0
        until(lambda: service._watch._overgrown_since is None)
        held = 2 * 2**20 + 1
        until(lambda: service._watch._overgrown_since is not None)
        clock.now += 61
        assert died.wait(WAIT_SECONDS)


def test_who_takes_the_image_alone_has_no_previews_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `inpaint_once`, whose callers may ask for previews that go nowhere: each took as long as a picture."""
    client, made = FakeClient(), kind()
    client.only_image = True
    monkeypatch.setattr(made, "preview", lambda prepared, pixels: pytest.fail("made"))
    with serving(kind=made, settings={"max_preview_mib": 1}) as service:
        service.submit(large(preview_every=1, scheduler="euler"), client)
        assert [event.event for event in client.images() and client.events] == ["image"]


def test_only_the_latest_preview_waits() -> None:
    """Guards the outbox: behind a client that is slow to be written to, previews would pile up, all but one stale."""
    told, wait = threading.Event(), threading.Event()

    class Slow(FakeClient):
        def send(self, event: Event) -> None:
            super().send(event)
            if event.event == "preview" and not told.is_set():
                told.set()
                assert wait.wait(WAIT_SECONDS)

    client, gate = Slow(), Gate("unet", nth=3)
    engines = FakeEngines(gate)
    with serving(engines) as service:
        service.submit(inpaint(preview_every=1, scheduler="euler") | inputs(num_inference_steps=9), client)
        assert told.wait(WAIT_SECONDS)  # at the second step at most
        gate.open()
        until(lambda: engines.rows("vae_decoder"))  # every step has run
        wait.set()
        client.images()
    steps = [(event.event, event.step) for event in client.events]
    first, *others = [step for name, step in steps if name == "preview"]
    assert others == [8]
    assert first < 8
    assert [step for name, step in steps if name == "progress"] == list(range(1, 10))
    assert steps.index(("preview", 8)) == steps.index(("progress", 8)) + 1


def test_no_kinds_silence_is_unbounded() -> None:
    """Guards progress alone: thousands of events count too."""
    client = FakeClient()
    asked = inputs(num_inference_steps=200, num_images_per_prompt=8)
    with serving(settings={"max_output_mib": 1}) as service:
        service.submit(asked, client)
        assert str(client.wait()).startswith("INVALID_ARG: num_images_per_prompt: ")
