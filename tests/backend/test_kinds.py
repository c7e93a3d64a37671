"""A second kind in the same loop: batching, cancelling, failing, refusing like the first."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backend.fakes import Arrays, FakeClient, Gate, code, fake_bundle, hole, picture, prepared, serving, until
from gesso_backend import plugins
from gesso_backend.errors import BundleError, Cancelled
from gesso_backend.kinds import kind_of, parse_bundle
from kinds import filler

BOTH_LOOPS = pytest.mark.parametrize("loop", ["batched", "plain"])


class Engines(dict[str, Callable[..., Arrays]]):
    """The filler's network, in numpy. `before`: as of FakeEngines. rows: of each call."""

    def __init__(self, before: Callable[[str, Arrays], None] = lambda network, arrays: None) -> None:
        self.rows: list[int] = []

        def fill(**inputs: Any) -> Arrays:
            before(filler.NETWORK, inputs)
            self.rows.append(len(inputs["sample"]))
            mean = inputs["sample"].mean(axis=(2, 3), keepdims=True)
            return {"image": inputs["sample"] * (1 - inputs["repaint"]) + mean * inputs["repaint"]}

        super().__init__({filler.NETWORK: fill})


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind is found, as it is on a server that has it installed."""

    class Entry:
        def load(self) -> Any:
            return filler.Filler

    everything = {**plugins.found(plugins.KINDS), "filler": Entry()}
    monkeypatch.setattr("gesso_backend.kinds.found", lambda group: everything)


def kind() -> filler.Filler:
    bundle = parse_bundle(filler.manifest({"filler.onnx": b""}))
    opened = kind_of(bundle)
    assert opened is filler.Filler
    return filler.Filler(bundle)


def request(seed: int = 0, side: int = 32, **more: Any) -> Arrays:
    return {"image": picture(side, side, seed), "mask_image": hole(side, side), **more}


@BOTH_LOOPS
def test_one_call_in_one_picture_out(loop: str) -> None:
    """Guards every place that might ask for a prompt, a step or a latent."""
    client, engines = FakeClient(), Engines()
    with serving(engines, kind=kind(), settings={"loop": loop}) as service:
        service.submit(request(), client)
        (image,) = client.images()
    assert engines.rows == [1]
    assert [event.event for event in client.events] == ["image"]
    mask, original = hole(32, 32), picture(32, 32, 0)
    assert (image[mask == 0] == original[mask == 0]).all()
    assert np.abs(image[mask > 0].astype(float) - original.mean(axis=(0, 1))).max() <= 1
    report = json.loads(client.events[-1].report)
    assert report["changed_outside_mask"] == 0
    assert report["rows_per_step"] == 1.0
    assert set(report["timings_ms"]) == {"prepare", "queue", "filler", "composite"}


def test_requests_share_a_call_and_each_gets_its_own_picture() -> None:
    """Guards the batching key, which is the call's, not the kind's."""
    gate = Gate(filler.NETWORK)
    engines, clients = Engines(gate), [FakeClient() for _ in range(5)]
    with serving(engines, kind=kind(), settings={"max_vae_rows": 4}) as service:
        jobs = [service.submit(request(seed), client) for seed, client in enumerate(clients)]
        gate.wait()
        until(lambda: all(prepared(job) for job in jobs))
        gate.open()
        together = [client.images()[0].tobytes() for client in clients]
    assert sum(engines.rows) == 5
    assert len(engines.rows) == 2, "what waited did not run as one"
    for seed, picture_together in enumerate(together):
        client = FakeClient()
        with serving(Engines(), kind=kind()) as service:
            service.submit(request(seed), client)
            assert client.images()[0].tobytes() == picture_together


@BOTH_LOOPS
def test_it_is_cancelled_and_fails_like_any_other(loop: str) -> None:
    """Guards one final reply for each, whatever happens, and nobody's neighbours."""
    gate = Gate(filler.NETWORK)

    def before(network: str, arrays: Arrays) -> None:
        gate(network, arrays)
        if (arrays["sample"][:, 0, 0, 0] == -1).any():  # black
            raise RuntimeError("no kernel")

    first, cancelled, failing, fine = (FakeClient() for _ in range(4))
    black = {**request(), "image": np.zeros((32, 32, 3), np.uint8)}
    with serving(Engines(before), kind=kind(), settings={"loop": loop, "max_vae_rows": 4}) as service:
        service.submit(request(), first)
        gate.wait()
        jobs = [service.submit(inputs, client) for inputs, client in
                ((request(1), cancelled), (black, failing), (request(2), fine))]  # fmt: skip
        until(lambda: all(prepared(job) for job in jobs))
        jobs[0].abort(Cancelled("enough"))
        gate.open()
        assert [code(client.wait()) for client in (first, cancelled, failing, fine)] == [
            "OK", "CANCELLED", "INTERNAL", "OK",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": picture(8, 8)}, "INVALID_ARG: mask_image: missing"),
        (request(prompt=np.array([b"a"], np.object_)), "INVALID_ARG: prompt: this model does not take it"),
        (request(seed_=np.array([1])), "INVALID_ARG: seed_: unknown input"),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(inputs: Arrays, message: str) -> None:
    """Guards the table of parameters, which is every kind's, against being taken for any kind's."""
    client = FakeClient()
    with serving(Engines(), kind=kind()) as service:
        service.submit(inputs, client)
        assert str(client.wait()).startswith(message)


def test_what_a_client_is_told_of_it() -> None:
    """Guards clients against parts that this kind does not have."""
    described = kind().bundle.describe()
    assert (described["kind"], described["family"], described["tasks"]) == ("filler", None, ["inpaint"])
    assert list(described["parameters"]) == ["mask_feather"]


def test_a_part_of_another_kind_is_an_unknown_key() -> None:
    """Guards strictness: each kind's bundle has its own parts and no others."""
    document = filler.manifest({"filler.onnx": b""}) | {"denoiser": "filler"}
    with pytest.raises(BundleError, match="denoiser: unknown key"):
        parse_bundle(document)
    assert "denoiser" in vars(fake_bundle())
