"""Malformed requests: each is an error that names the field and fits its code, and costs nobody else anything."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from e2e.jobs import hole, inpaint, photo, text_to_image
from e2e.server import Server
from e2e.wire import (
    Refused,
    Tensors,
    binary_request,
    flat,
    generate,
    generate_stream,
    infer_binary,
    infer_grpc,
    infer_json,
    post,
    stream_grpc,
    tensors,
)

pytestmark = pytest.mark.e2e

GRPC_CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}


def text(*values: bytes) -> np.ndarray[Any, Any]:
    return np.array(values, np.object_)


def without(*names: str) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor for name, tensor in inpaint().items() if name not in names}


# what: (the request, HTTP status, words of the message; the first is the field)
MALFORMED: dict[str, tuple[Tensors, int, tuple[str, ...]]] = {
    "no prompt": (without("prompt"), 400, ("prompt", "missing")),
    "two prompts": (inpaint(prompt=text(b"a", b"b")), 400, ("prompt", "[2]")),
    "a prompt that is not UTF-8": (inpaint(prompt=text(b"caf\xe9")), 400, ("prompt", "UTF-8")),
    "a prompt with a NUL": (inpaint(prompt="a\0b"), 400, ("prompt", "NUL")),
    "a prompt of 20 kB": (inpaint(prompt="x" * 20000), 400, ("prompt", "16384")),
    "a float picture": (inpaint(image=photo().astype(np.float32)), 400, ("image", "FP32", "UINT8")),
    "a grey picture": (inpaint(image=photo()[..., 0]), 400, ("image", "[64,72]")),
    "a picture with alpha": (inpaint(image=np.zeros((64, 72, 4), np.uint8)), 400, ("image", "[64,72,4]")),
    "a picture of no pixel": (inpaint(image=np.zeros((0, 0, 3), np.uint8)), 400, ("image", "no pixel")),
    "a mask of rank 3": (inpaint(mask_image=hole()[..., None]), 400, ("mask_image", "[64,72,1]")),
    "a mask of another size": (inpaint(mask_image=hole(64, 64)), 400, ("mask_image", "[64, 64]", "[64, 72]")),
    "an empty mask": (inpaint(mask_image=hole() * 0), 400, ("mask_image", "empty")),
    "a mask and no picture": (without("image"), 400, ("mask_image", "image")),
    "steps out of bounds": (inpaint(num_inference_steps=1000), 400, ("num_inference_steps", "1000", "200")),
    "steps of no type known": (
        inpaint(num_inference_steps=np.array([4], np.int64)), 400, ("num_inference_steps", "INT64"),
    ),
    "no value where one belongs": (inpaint(seed=np.array([], np.int64)), 400, ("seed", "[0]")),
    "a negative seed": (inpaint(seed=-1), 400, ("seed", "-1")),
    "guidance that is no number": (inpaint(guidance_scale=float("nan")), 400, ("guidance_scale", "not a number")),
    "infinite guidance": (inpaint(guidance_scale=float("inf")), 400, ("guidance_scale", "inf")),
    "strength 0": (inpaint(strength=0.0), 400, ("strength",)),
    "a strength that leaves no step": (inpaint(strength=0.1), 400, ("strength", "no step")),
    "height of another picture": ({**inpaint(), **tensors(height=128)}, 400, ("height", "64")),
    "previews of no size": (inpaint(preview_every=1, preview_size=0), 400, ("preview_size", "0", "16")),
    "a scheduler nobody knows": (inpaint(scheduler="warp"), 404, ("scheduler", "warp", "ddim", "dpmpp_2m_karras")),
    "an unknown input": (inpaint(sampler="ddim"), 400, ("sampler",)),
    "a size that is no multiple": (text_to_image(height=67), 400, ("height", "67", "8")),
    "a feather without a mask": (text_to_image(mask_feather=2), 400, ("mask_feather", "mask_image")),
}  # fmt: skip


@pytest.fixture(autouse=True)
def serves_on(server: Server) -> Any:
    """The request after a malformed one is served as if nothing had been."""
    yield
    picture = infer_binary(server.http, text_to_image()).image
    np.testing.assert_array_equal(infer_grpc(server.grpc, text_to_image()).image, picture)


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_requests_are_refused_by_name(server: Server, what: str) -> None:
    inputs, status, words = MALFORMED[what]
    with pytest.raises(Refused) as http:
        infer_binary(server.http, inputs)
    with pytest.raises(Refused) as grpc:
        infer_grpc(server.grpc, inputs)
    with pytest.raises(Refused) as stream:
        list(stream_grpc(server.grpc, inputs))
    assert http.value.code == status
    assert grpc.value.code == GRPC_CODES[status]
    for refused in (http, grpc, stream):
        for word in words:
            assert word in refused.value.message


def test_a_batchmate_of_a_malformed_request_is_not_harmed(server: Server) -> None:
    alone = infer_binary(server.http, inpaint())
    events = stream_grpc(server.grpc, inpaint())
    next(events)
    with pytest.raises(Refused, match="mask_image"):
        infer_binary(server.http, inpaint(mask_image=hole(8, 8)))
    np.testing.assert_array_equal(list(events)[-1].image, alone.image)


@pytest.mark.parametrize("model", ["inpaint", "inpaint_once"])
def test_unknown_parameters_are_refused(server: Server, model: str) -> None:
    """A misspelt option must not be silently ignored; over generate that is all an unknown input is."""
    for value in (1, True, "x"):
        with pytest.raises(Refused, match="INVALID_ARG: steps: unknown parameter"):
            list(stream_grpc(server.grpc, inpaint(), model, steps=value))
    with pytest.raises(Refused, match="INVALID_ARG: steps: unknown parameter") as refused:
        list(generate_stream(server.http, {**flat(text_to_image()), "steps": 5}, model))
    assert refused.value.code == 400


def test_the_parameters_between_the_two_models_are_not_for_clients(server: Server) -> None:
    for name in ("gesso_job", "gesso_cancel"):
        with pytest.raises(Refused, match=f"{name}: unknown parameter"):
            infer_json(server.http, text_to_image(), **{name: "x"})
        for value in ("x", 5, ".x"):  # nor over `inpaint`, where they belong
            with pytest.raises(Refused, match=f"INVALID_ARG: {name}: unknown parameter"):
                list(stream_grpc(server.grpc, text_to_image(), **{name: value}))
            with pytest.raises(Refused, match=f"INVALID_ARG: {name}: unknown parameter"):
                list(generate_stream(server.http, {**flat(text_to_image()), name: value}))


@pytest.mark.parametrize("value", [1.5, True, 3, "urgent"])
def test_a_priority_that_is_none_is_refused_by_name(server: Server, value: Any) -> None:
    """Guards the one parameter that travels on between the models: a double was a failure inside the server."""
    words = "INVALID_ARG: priority: .* is not one of interactive, normal, background"
    with pytest.raises(Refused, match=words):
        infer_json(server.http, text_to_image(), gesso_priority=value)
    with pytest.raises(Refused, match=words):
        list(stream_grpc(server.grpc, text_to_image(), gesso_priority=value))


def test_several_images_need_the_streaming_model(server: Server) -> None:
    with pytest.raises(Refused, match="num_images_per_prompt") as refused:
        infer_binary(server.http, inpaint(num_images_per_prompt=2))
    assert refused.value.code == 400


def test_generate_refuses_by_name_too(server: Server) -> None:
    with pytest.raises(Refused, match="scheduler: 'warp' is not one of ddim"):
        generate(server.http, {**flat(text_to_image()), "scheduler": "warp"})
    with pytest.raises(Refused, match="mask_image: size"):  # no height and width: a flat list has no shape
        list(generate_stream(server.http, flat(inpaint(mask_image=hole(32, 32)))))


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_body_is_refused(server: Server, cut: int) -> None:
    body, headers = binary_request(inpaint())
    response, answer = post(server.http, "/v2/models/inpaint_once/infer", body[:-cut], headers)
    assert response.status == 400
    assert "unexpected size for input" in json.loads(answer)["error"]


def test_a_body_that_is_no_json_is_refused(server: Server) -> None:
    response, answer = post(server.http, "/v2/models/inpaint_once/infer", b"{nonsense")
    assert response.status in (400, 500)  # Triton's own answer, which has changed between its releases
    assert "parse" in json.loads(answer)["error"]


@pytest.mark.parametrize("shape", [(100_000, 100_000, 3), (2**31, 2**31, 3), (2**20, 2**20, 3)], ids=str)
def test_a_huge_shape_is_refused_without_its_pixels(server: Server, shape: tuple[int, ...]) -> None:
    """Nothing of the declared size may be allocated before the bytes are there."""
    body, headers = binary_request(inpaint())
    huge = body.replace(b"[64, 72, 3]", json.dumps(shape).encode())
    headers = {name: str(int(value) + len(huge) - len(body)) for name, value in headers.items()}
    response, answer = post(server.http, "/v2/models/inpaint_once/infer", huge, headers)
    assert response.status == 400
    assert "input byte size mismatch for input 'image'" in json.loads(answer)["error"]


def test_unknown_models_and_wrong_doors_are_named(server: Server) -> None:
    with pytest.raises(Refused, match="outpaint") as unknown:
        infer_json(server.http, text_to_image(), "outpaint")
    assert unknown.value.code == 404
    with pytest.raises(Refused, match="decoupled"):
        infer_json(server.http, text_to_image(), "inpaint")
