"""What a server says about a model, and the bounds checked against it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from client.tiny import PARAMETERS, description
from gesso_client import InvalidRequest, ModelInfo, NotFound, Parameter, ServerError


@pytest.fixture
def info() -> ModelInfo:
    return ModelInfo.parse("inpaint", description())


def test_a_model_is_described(info: ModelInfo) -> None:
    assert (info.name, info.bundle, info.native_size, info.size_multiple) == ("inpaint", "tiny", 64, 8)
    assert (info.kind, info.family, info.native_inpainting) == ("diffusion", "stable-diffusion", True)
    assert list(info.parameters) == list(PARAMETERS)
    assert info.default("strength", "inpaint") == 1.0
    assert info.default("strength", "image_to_image") == 0.8
    assert info.default("seed", "inpaint") is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        info.parameters["seed"] = info.parameters["prompt"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("guidance_scale", 99, "guidance_scale: 99.0 is above the maximum 50.0"),
        ("guidance_scale", float("nan"), "guidance_scale: is not a number"),
        ("guidance_scale", float("inf"), "guidance_scale: inf is above the maximum 50.0"),
        ("guidance_scale", "7", "guidance_scale: '7' is not a number"),
        ("guidance_scale", True, "guidance_scale: True is not a number"),
        ("seed", -1, "seed: -1 is below the minimum 0"),
        ("seed", 2**63, f"seed: {2**63} is above the maximum {2**63 - 1}"),
        ("num_inference_steps", 2.0, "num_inference_steps: 2.0 is not an integer"),
        ("num_inference_steps", True, "num_inference_steps: True is not an integer"),
        ("latent_blend", 1, "latent_blend: 1 is not True or False"),
        ("prompt", b"x", "prompt: b'x' is not a string"),
        ("prompt", "é" * 33, "prompt: 66 bytes is above the maximum 64"),
        ("prompt", "\ud800", "prompt: is not UTF-8"),
    ],
)
def test_a_value_out_of_bounds_is_named(info: ModelInfo, name: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        info.parameters[name].check(value)
    assert (str(caught.value), caught.value.field) == (words, name)


def test_an_unknown_scheduler_lists_the_names(info: ModelInfo) -> None:
    with pytest.raises(NotFound, match=r"^scheduler: 'foo' is not one of ddim, euler$"):
        info.parameters["scheduler"].check("foo")


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("seed", 0, 0),
        ("seed", np.int64(2**62), 2**62),
        ("guidance_scale", 7, 7.0),
        ("guidance_scale", np.float32(0.5), 0.5),
        ("latent_blend", np.True_, True),
        ("prompt", "", ""),
    ],
)
def test_bounds_are_inclusive_and_numpy_scalars_are_welcome(info: ModelInfo, name: str, value: Any, plain: Any) -> None:
    checked = info.parameters[name].check(value)
    assert checked == plain
    assert type(checked) is type(plain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        description(schema_version=3),
        description(schema_version=5),
        description(parameters={"x": {"type": "complex", "datatype": "FP32"}}),
        description(parameters={"x": {"type": "float"}}),
        description(parameters={"x": {"type": "float", "datatype": "FP128"}}),
        description(parameters={"x": {"type": "string", "datatype": "FP32"}}),
    ],
)
def test_a_description_this_client_cannot_read_is_the_servers_fault(text: str) -> None:
    with pytest.raises(ServerError, match=r"^inpaint: "):
        ModelInfo.parse("inpaint", text)


def test_a_newer_server_may_say_more() -> None:
    assert ModelInfo.parse("inpaint", description(colour="red")) == ModelInfo.parse("inpaint", description())


def test_a_kind_without_families_is_described() -> None:
    info = ModelInfo.parse("upscale", description(kind="upscaling", family=None, native_inpainting=False))
    assert (info.kind, info.family, info.native_inpainting) == ("upscaling", None, False)
    bare = {key: value for key, value in json.loads(description()).items() if key != "native_inpainting"}
    assert ModelInfo.parse("upscale", json.dumps(bare)).native_inpainting is False


@pytest.mark.parametrize(
    ("spec", "value", "dtype", "items"),
    [
        ({"type": "int", "datatype": "INT64"}, 2**62, np.int64, [2**62]),
        ({"type": "int", "datatype": "INT32"}, 3, np.int32, [3]),
        ({"type": "ints", "datatype": "INT64"}, (3, 2**40), np.int64, [3, 2**40]),
        ({"type": "floats", "datatype": "FP32"}, [1, 0.5], np.float32, [1.0, 0.5]),
        ({"type": "bool", "datatype": "BOOL"}, False, np.bool_, [False]),
        ({"type": "string", "datatype": "BYTES"}, "é", np.object_, ["é".encode()]),
    ],
)
def test_the_servers_datatype_is_the_tensors(spec: dict[str, str], value: Any, dtype: Any, items: list[Any]) -> None:
    """Guards against a second table in the client, which an older client would have wrong for a newer server."""
    parameter = Parameter.parse("x", spec)
    tensor = parameter.tensor(value)
    assert (tensor.dtype, tensor.tolist()) == (dtype, items)
    assert parameter.is_list == (len(items) > 1)
