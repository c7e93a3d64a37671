"""A second kind in the same loop: batching, cancelling, failing, refusing like the first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pytest

from backend.fakes import Arrays, FakeClient, Gate, code, fake_bundle, hole, picture, prepared, serving, until
from gesso_backend import plugins
from gesso_backend.call import Call
from gesso_backend.engines.engine import EngineSet
from gesso_backend.errors import BundleError, Cancelled
from gesso_backend.kinds import kind_of, parse_bundle
from gesso_backend.kinds.kind import Life, Progress
from gesso_backend.pixels.pixels import to_picture
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
    described = kind().bundle.describe({})
    assert (described["kind"], described["family"], described["tasks"]) == ("filler", None, ["inpaint"])
    assert list(described["parameters"]) == ["mask_feather"]


def test_a_part_of_another_kind_is_an_unknown_key() -> None:
    """Guards strictness: each kind's bundle has its own parts and no others."""
    document = filler.manifest({"filler.onnx": b""}) | {"denoiser": "filler"}
    with pytest.raises(BundleError, match="denoiser: unknown key"):
        parse_bundle(document)
    assert "denoiser" in vars(fake_bundle())


class Tinted(filler.Filler):
    """Its requests ask for a variant of the network each: by the feather, which stands in for a set of adapters."""

    def life(self, prepared: filler.Prepared) -> Life:
        inputs = {"sample": prepared.sample, "repaint": prepared.repaint}
        outputs = yield Call(
            filler.NETWORK, inputs, content=b"c", step=True, variant=prepared.request.mask_feather or None
        )
        return to_picture(outputs["image"])


def test_a_variant_is_part_of_the_batch_of_the_engine_and_of_the_cache() -> None:
    """Guards adapters: rows of two variants in one call, or another's answer, would be somebody else's picture."""
    asked: list[tuple[int, int]] = []  # variant, rows
    gate = Gate(filler.NETWORK)

    def variant(network: str, number: Hashable) -> Any:
        def fill(**inputs: Any) -> Arrays:
            gate(network, inputs)
            asked.append((int(str(number)), len(inputs["sample"])))
            level = np.float32(int(str(number)) / 8)
            return {"image": inputs["sample"] * (1 - inputs["repaint"]) + level * inputs["repaint"]}

        return fill

    engines = EngineSet.alike(Engines(gate), "fake")
    engines = dataclasses.replace(engines, variants=variant)
    bundle = kind().bundle
    clients = [FakeClient() for _ in range(6)]
    with serving(engines, kind=Tinted(bundle), settings={"max_vae_rows": 4, "cache_mib": 8}) as service:
        jobs = [
            service.submit(request(0, mask_feather=np.array([1 + number % 2], np.int32)), client)
            for number, client in enumerate(clients)
        ]
        gate.wait()
        until(lambda: all(prepared(job) for job in jobs))
        gate.open()
        images = [client.images()[0].tobytes() for client in clients]
    assert len(set(images[::2])) == len(set(images[1::2])) == 1
    assert images[0] != images[1]
    assert {number for number, _ in asked} == {1, 2}


def test_an_engine_without_variants_refuses_one_by_name() -> None:
    """Guards against the plain network in the place of the one that was asked for."""
    client = FakeClient()
    with serving(Engines(), kind=Tinted(kind().bundle)) as service:
        service.submit(request(mask_feather=np.array([3], np.int32)), client)
        assert str(client.wait()) == "INTERNAL: filler: this engine has no variants of it"


class Nested(filler.Filler):
    """A life that starts others, which start others."""

    def life(self, prepared: filler.Prepared) -> Life:
        outputs = yield Call(filler.NETWORK, {"sample": prepared.sample, "repaint": prepared.repaint})

        def paint() -> Life:
            again = yield Call(filler.NETWORK, {"sample": outputs["image"], "repaint": prepared.repaint}, step=True)
            return to_picture(again["image"])

        def start() -> Life:
            yield Progress(1, 1, 0)
            return [paint()]

        return [start()]


@BOTH_LOOPS
def test_lives_that_start_lives_end_in_one_reply(loop: str) -> None:
    """Guards the count of what still lives: too low would end a request before its picture, too high never."""
    client, engines = FakeClient(), Engines()
    with serving(engines, kind=Nested(kind().bundle), settings={"loop": loop}) as service:
        service.submit(request(), client)
        assert len(client.images()) == 1
    assert engines.rows == [1, 1]
    assert [event.event for event in client.events] == ["progress", "image"]


class Stubborn(filler.Filler):
    """A life that raises when it is ended early."""

    def life(self, prepared: filler.Prepared) -> Life:
        inputs = {"sample": prepared.sample, "repaint": prepared.repaint}
        try:
            yield Call(filler.NETWORK, inputs, step=True)
            outputs = yield Call(filler.NETWORK, inputs, step=True)
        except GeneratorExit:
            raise RuntimeError("not yet") from None
        return to_picture(outputs["image"])


@BOTH_LOOPS
def test_a_life_that_will_not_close_ends_nobody_else(loop: str) -> None:
    """Guards the loop's thread against the code of a kind, at the one place where it is not asked to go on."""
    gate = Gate(filler.NETWORK)
    first, second = FakeClient(), FakeClient()
    with serving(Engines(gate), kind=Stubborn(kind().bundle), settings={"loop": loop}) as service:
        job = service.submit(request(), first)
        gate.wait()
        job.abort(Cancelled("enough"))
        gate.open()
        assert code(first.wait()) == "CANCELLED"
        service.submit(request(1), second)
        assert code(second.wait()) == "OK"
        assert service.healthy()
