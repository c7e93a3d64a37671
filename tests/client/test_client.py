"""The synchronous client, over a transport in memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from client.tiny import IMAGE, MASK, MODELS, PICTURE, PROGRESS, client, description
from client.until import until
from gesso_client import (
    Client,
    Image,
    InvalidRequest,
    NotFound,
    Preview,
    Progress,
    ServerError,
)
from gesso_client.testing import FakeTransport, response


def test_a_picture_comes_back_with_its_seed_and_report() -> None:
    gesso, transport = client([Image(PICTURE.image, 0, 0, {"seed": 0})])
    result = gesso.inpaint(IMAGE, MASK, "a cat", seed=0)
    assert np.array_equal(np.asarray(result.image), np.asarray(PICTURE.image))
    assert (result.seed, result.report, len(result.images)) == (0, {"seed": 0}, 1)
    assert transport.requests[0].inputs["seed"].tolist() == [0]  # 0 is a seed, not an absent one


def test_the_siblings_send_what_they_have() -> None:
    gesso, transport = client()
    assert gesso.generate("a cat", height=16, width=24).image.size == (24, 16)
    assert gesso.transform(IMAGE, "a cat").image.size == (6, 4)
    kinds = [request.inputs.keys() & {"image", "mask_image"} for request in transport.requests]
    assert kinds == [set(), {"image"}]


def test_several_pictures_are_ordered_by_index() -> None:
    pictures = [Image(PILImage.fromarray(IMAGE + index), 7 + index, index, {}) for index in range(3)]
    gesso, _ = client([pictures[2], pictures[0], pictures[1]])
    result = gesso.inpaint(IMAGE, np.ones_like(MASK), "a cat", num_images_per_prompt=3)
    assert [np.asarray(image)[0, 0, 0] for image in result.images] == [0, 1, 2]
    assert [picture.seed for picture in result.pictures] == [7, 8, 9]
    assert result.seed == 7


def test_events_are_typed() -> None:
    gesso, _ = client()
    events = list(gesso.stream(IMAGE, MASK, "a cat", num_inference_steps=2, preview_every=2))
    assert events[0] == Progress(1, 2, 0)
    assert [type(event) for event in events] == [Progress, Progress, Preview, Image]
    assert events[2].image.size == (6, 4)
    assert events[3].image.size == (6, 4)


def test_a_stream_that_is_dropped_is_cancelled() -> None:
    gesso, transport = client()
    for event in gesso.stream(IMAGE, MASK, "a cat"):
        assert isinstance(event, Progress)
        break
    assert until(transport.calls[0].cancelled.is_set)


@pytest.mark.parametrize(
    "wrong",
    [
        {"event": np.array([b"surprise"], object)},
        {"event": np.array([b"image"], object)},  # whose picture is empty
        {"event": np.array([b"image"], object), "image": IMAGE[0]},
        {"event": np.array([b"image"], object), "image": IMAGE, "report": np.array([b"{"], object)},
        {"step": np.array([], np.int32)},
    ],
)
def test_an_answer_outside_the_contract_is_the_servers_fault(wrong: dict[str, Any]) -> None:
    gesso, _ = client([{**response(PROGRESS), **wrong}])
    with pytest.raises(ServerError, match="cannot read"):
        gesso.inpaint(IMAGE, MASK, "a cat")


def test_an_answer_that_ends_too_early_is_an_error() -> None:
    """A stream that just stops looks like a finished one to whoever only counts events."""
    gesso, _ = client([PROGRESS], [PICTURE])
    with pytest.raises(ServerError, match="ended after 0 of 1 pictures"):
        list(gesso.stream(IMAGE, MASK, "a cat"))
    with pytest.raises(ServerError, match="ended after 1 of 2 pictures"):
        gesso.inpaint(IMAGE, MASK, "a cat", num_images_per_prompt=2)


# What is checked before anything is sent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guidance_scale": 99.0}, "guidance_scale: 99.0 is above the maximum 50.0"),
        ({"seed": -2}, "seed: -2 is below the minimum 0"),
        ({"scheduler": "foo"}, "scheduler: 'foo' is not one of ddim, euler"),
        ({"steps": 3}, "steps: unknown option; known are negative_prompt"),
    ],
)
def test_bounds_are_checked_before_anything_is_sent(options: dict[str, Any], words: str) -> None:
    gesso, transport = client()
    for call in (gesso.inpaint, gesso.stream, gesso.submit):
        with pytest.raises((InvalidRequest, NotFound)) as caught:
            call(IMAGE, MASK, "a cat", **options)
        assert str(caught.value).startswith(words)
        assert caught.value.field == next(iter(options))
    assert transport.requests == []


def test_bounds_are_fetched_once() -> None:
    class Slow(FakeTransport):
        def describe(self, model: str) -> str | None:
            time.sleep(0.05)
            return super().describe(model)

    transport = Slow(models=MODELS)
    gesso = Client(transport=transport)
    assert transport.descriptions == 0  # nothing happens before the first request
    threads = [threading.Thread(target=gesso.generate, args=("a cat",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (transport.descriptions, len(transport.requests)) == (1, 4)
    with pytest.raises(InvalidRequest):
        gesso.generate("a cat", steps=3)
    assert (transport.descriptions, len(transport.requests)) == (1, 4)


def test_inpaint_without_a_mask_is_refused() -> None:
    """It must not quietly become image-to-image, which changes every pixel."""
    gesso, transport = client()
    with pytest.raises(InvalidRequest, match="mask_image: missing"):
        gesso.inpaint(IMAGE, None, "a cat")
    assert transport.requests == []


def test_a_request_goes_to_the_model_that_was_named() -> None:
    models = {"inpaint": description(), "other": description(name="sd2")}
    transport = FakeTransport(models=models)
    gesso = Client(transport=transport, model="other")
    gesso.generate("a cat")
    gesso.generate("a cat", model="inpaint")
    assert [request.model for request in transport.requests] == ["other", "inpaint"]
    with pytest.raises(NotFound) as caught:
        gesso.generate("a cat", model="nope")
    assert caught.value.field == "model"


def test_models_are_gessos_and_each_once() -> None:
    gesso, _ = client()
    assert [info.name for info in gesso.models()] == ["inpaint"]
    with pytest.raises(NotFound, match="model: 'resnet' is not a gesso model"):
        gesso.info("resnet")
    alone = Client(transport=FakeTransport(models={"paint_once": description()}))
    assert [info.name for info in alone.models()] == ["paint_once"]  # nobody's twin


def test_leaving_the_client_closes_the_transport() -> None:
    gesso, transport = client()
    with gesso as entered:
        assert entered is gesso
    assert transport.closed


@pytest.mark.parametrize(
    "url",
    ["", "ftp://host:1", "http://", "host:notaport", "host:99999", "grpc://host:1/path", "http://a:1/?q", "u@h:1"],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Client(url)
    assert caught.value.field == "url"


def test_importing_the_client_is_light() -> None:
    """Transports are imported when they are used, and torch never."""
    heavy = "{'torch', 'diffusers', 'transformers', 'onnxruntime', 'grpc', 'tritonclient', 'gevent'}"
    code = f"import sys, gesso_client; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    code = (
        "import sys; from gesso_client import Client; Client(); Client('http://x'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
