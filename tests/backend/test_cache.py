"""Caches: exact, bounded, and never asked for what has to be new."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.fakes import Arrays, FakeClient, FakeEngines, hole, inputs, picture, serving
from gesso_backend.call import digest
from gesso_backend.serving.cache import Cache
from gesso_backend.settings import Settings

CACHED = {"cache_mib": Settings.cache_mib}


def ask(service: Any, **values: Any) -> tuple[Any, dict[str, Any]]:
    """(the picture, its report)."""
    client = FakeClient()
    service.submit(inputs(**values), client)
    (image,) = client.images()
    return image, json.loads(client.events[-1].report)


def inpainting(**values: Any) -> Arrays:
    return {"image": picture(32, 48), "mask_image": hole(32, 48), **values}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=60))
def test_a_cache_never_holds_more_than_it_may(entries: list[tuple[int, int]]) -> None:
    """Guards the server's memory, and that what was used last is what stays."""
    cache: Cache[int] = Cache(100)
    sizes: dict[int, int] = {}
    for key, size in entries:
        if cache.get(key) is None:
            cache.put(key, size, size)
            sizes[key] = size
            assert (cache.get(key) is None) == (size > 100)
    assert sum(sizes[key] for key in sizes if cache.get(key) is not None) <= 100


def test_the_least_recently_used_goes_first() -> None:
    """Guards a prompt that everybody uses against a stream of others."""
    cache: Cache[str] = Cache(2)
    for key in "ab":
        cache.put(key, key, 1)
    cache.get("a")
    cache.put("c", "c", 1)
    assert [cache.get(key) for key in "abc"] == ["a", None, "c"]


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.zeros((2, 3), np.float32)},
        {"x": np.zeros((3, 2), np.int32)},
        {"x": np.ones((3, 2), np.float32)},
        {"y": np.zeros((3, 2), np.float32)},
        {"x": np.zeros((3, 2), np.float32), "y": np.zeros(0, np.float32)},
    ],
)
def test_what_differs_in_anything_has_another_digest(other: Arrays) -> None:
    """Guards against one request getting another one's picture."""
    arrays = {"x": np.zeros((3, 2), np.float32)}
    assert digest(arrays) == digest({"x": np.zeros((3, 2), np.float32)})
    assert digest(arrays) != digest(other)


def test_texts_do_not_run_into_each_other() -> None:
    """Guards ["ab", "c"] against ["a", "bc"]."""
    first, second = (np.array(texts, np.object_) for texts in ([b"ab", b"c"], [b"a", b"bc"]))
    assert digest({"x": first}) != digest({"x": second})


@pytest.mark.parametrize("loop", ["batched", "plain"])
def test_a_prompt_and_a_picture_are_encoded_once(loop: str) -> None:
    """Guards the saving, and its exactness: the same bytes as without a cache."""
    engines = FakeEngines()
    with serving(engines, settings={"loop": loop, **CACHED}) as service:
        first, _ = ask(service, **inpainting(), seed=1)
        calls = len(engines.calls)
        again, report = ask(service, **inpainting(), seed=1)
        other, _ = ask(service, **inpainting(), seed=2)
        assert {network for network, _ in engines.calls[calls:]} == {"unet", "vae_decoder"}
    assert report["cached"] == ["text_encoder", "vae_encoder"]
    assert again.tobytes() == first.tobytes()
    assert other.tobytes() != first.tobytes()


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"prompt": "another"}, {"text_encoder"}),
        ({"negative_prompt": "ugly"}, {"text_encoder"}),
        ({"clip_skip": 1}, {"text_encoder"}),
        ({"image": picture(32, 48) ^ np.uint8(1)}, {"vae_encoder"}),
        ({"mask_image": np.roll(hole(32, 48), 8, axis=1)}, {"vae_encoder"}),
    ],
)
def test_what_changed_is_computed_anew(change: Arrays, anew: set[str]) -> None:
    """Guards against a stale prompt, picture or mask."""
    engines = FakeEngines()
    with serving(engines, settings=CACHED) as service:
        ask(service, **inpainting(), seed=1)
        calls = len(engines.calls)
        changed, _ = ask(service, **{**inpainting(), **change}, seed=1)
        assert {network for network, _ in engines.calls[calls:]} == anew | {"unet", "vae_decoder"}
    with serving(settings={"cache_mib": 0}) as service:
        assert ask(service, **{**inpainting(), **change}, seed=1)[0].tobytes() == changed.tobytes()


def test_no_cache_is_no_cache() -> None:
    """Guards `--cache-mib 0`."""
    engines = FakeEngines()
    with serving(engines, settings={"cache_mib": 0}) as service:
        reports = [ask(service, **inpainting(), seed=1)[1] for _ in range(2)]
    assert len(engines.rows("text_encoder")) == 2
    assert [report["cached"] for report in reports] == [[], []]


def test_a_failed_call_is_not_kept() -> None:
    """Guards against an error that stays after its cause has gone."""
    broken = [True]

    def hook(network: str, arrays: Arrays) -> None:
        if network == "text_encoder" and broken[0]:
            raise RuntimeError("once")

    with serving(FakeEngines(hook), settings=CACHED) as service:
        client = FakeClient()
        service.submit(inputs(seed=1), client)
        assert client.wait() is not None
        broken[0] = False
        ask(service, seed=1)


def test_whole_answers_are_kept_only_when_asked_for() -> None:
    """Guards the default: a server that repeats itself must be told to."""
    engines = FakeEngines()
    with serving(engines, settings=CACHED) as service:
        ask(service, seed=1)
        ask(service, seed=1)
    assert len(engines.rows("vae_decoder")) == 2


def test_an_equal_request_gets_the_kept_answer_and_runs_nothing() -> None:
    """Guards the response cache: the same pictures, one final reply, and a report that says where they are from."""
    engines = FakeEngines()
    with serving(engines, settings={"response_cache_mib": 8}) as service:
        first, later = FakeClient(), FakeClient()
        service.submit(inputs(**inpainting(), seed=1, num_images_per_prompt=2), first)
        first.images()
        calls = len(engines.calls)
        service.submit(inputs(**inpainting(), seed=1, num_images_per_prompt=2), later)
        assert [image.tobytes() for image in later.images()] == [image.tobytes() for image in first.images()]
        assert len(engines.calls) == calls
    assert [event.event for event in later.events] == ["image", "image"]
    assert [event.seed for event in later.events] == [1, 2]
    report = json.loads(later.events[-1].report)
    assert report["cached"] == ["response"]
    assert report["parameters"] == json.loads(first.events[-1].report)["parameters"]
    assert set(report["timings_ms"]) == {"prepare", "queue"}


@pytest.mark.parametrize("change", [{"seed": 2}, {"prompt": "b"}, {"num_inference_steps": 4}, {"preview_every": 1}])
def test_a_request_that_differs_is_run(change: dict[str, Any]) -> None:
    """Guards against an answer to another question, and previews against being left out."""
    engines = FakeEngines()
    with serving(engines, settings={"response_cache_mib": 8}) as service:
        ask(service, seed=1)
        client = FakeClient()
        service.submit(inputs(**{"seed": 1, **change}), client)
        client.images()
    assert len(engines.rows("vae_decoder")) == 2


def test_without_a_seed_every_answer_is_new() -> None:
    """Guards the drawn seed: whoever says none asks for something new."""
    request = inputs()
    request.pop("seed", None)
    with serving(settings={"response_cache_mib": 8}) as service:
        clients = [FakeClient(), FakeClient()]
        for client in clients:
            service.submit(request, client)
            client.images()
    assert clients[0].events[-1].seed != clients[1].events[-1].seed
