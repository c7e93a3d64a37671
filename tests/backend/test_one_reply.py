"""Whatever is raised, wherever: one final reply, and the requests after it are served."""

from __future__ import annotations

from typing import Any

import pytest

from backend.fakes import FakeClient, FakeEngines, FakeTokenizer, code, fake_bundle, inpaint, serving
from gesso_backend.kinds.diffusion.diffusion import Diffusion
from gesso_backend.serving import responses, run
from gesso_backend.serving.costs import Costs
from gesso_backend.serving.report import Account

BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])

PREPARING = {
    "parsing": (Diffusion, "parse"),
    "preparing": (Diffusion, "prepare"),
    "what its work is": (Diffusion, "work"),
    "what a call costs": (Costs, "estimate"),
    "the digest of the response cache": (responses, "digest"),
    "looking into the response cache": (responses.Responses, "get"),
    "accounting": (Account, "spend"),
    "the run itself": (run.Run, "__init__"),
}
RUNNING = {
    "beginning its life": (Diffusion, "life"),
    "its first network call": (Account, "start"),
    "progress": (run.Run, "emit"),
    "a picture on its way": (run.Run, "painted"),
    "the last stage": (run.Run, "finish"),
}
ANSWERING = {
    "painting": (Diffusion, "paint"),
    "the preview": (Diffusion, "preview"),
    "its report": (Diffusion, "report"),
    "serving's report": (Account, "report"),
    "the metrics of its stages": (Account, "observe"),
    "putting it into the response cache": (responses.Responses, "put"),
}


class Bad(Exception):
    """What nobody expects."""


@BOTH_LOOPS
@pytest.mark.parametrize("where", [*PREPARING, *RUNNING, *ANSWERING])
def test_what_is_raised_is_the_one_reply(
    where: str, loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the client that would wait for ever: the digest of the response cache once raised on the preparing
    thread after all that was guarded, and nobody was told."""
    owner, name = {**PREPARING, **RUNNING, **ANSWERING}[where]
    original, armed = getattr(owner, name), [True]

    def once(*arguments: Any, **more: Any) -> Any:
        if armed:
            armed.clear()
            raise Bad(where)
        return original(*arguments, **more)

    kind = Diffusion(fake_bundle(), {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]
    first, second = FakeClient(), FakeClient()
    settings = {"loop": loop, "response_cache_mib": 8}
    with serving(FakeEngines(), kind=kind, settings=settings) as service:
        monkeypatch.setattr(owner, name, once)
        service.submit(inpaint(preview_every=1 if where == "the preview" else 0, scheduler="euler"), first)
        assert code(first.wait()) == "INTERNAL"
        assert str(first.finals[0]) == "INTERNAL: Bad: the server's log says why"
        assert f"Bad: {where}" in caplog.text
        service.submit(inpaint(), second)
        assert code(second.wait()) == "OK"
        assert service.healthy()
    assert not armed
    assert len(first.finals) == len(second.finals) == 1
    assert first.late == []


class Broken(FakeClient):
    """A channel that cannot be written to."""

    def send(self, event: Any) -> None:
        raise Bad("the channel")


@BOTH_LOOPS
def test_a_channel_that_breaks_ends_its_own_request(loop: str) -> None:
    """Guards the outbox, which talks to every client."""
    client = Broken()
    with serving(FakeEngines(), settings={"loop": loop}) as service:
        service.submit(inpaint(), client)
        assert str(client.wait()) == "INTERNAL: Bad: the server's log says why"
