"""model_repository/*/config.pbtxt is the contract; both ends are held against it, not against each other."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import np_to_triton_dtype

from contract.conftest import OF_PICTURES, ROOT
from gesso_backend.kinds.diffusion.bundle import DiffusionBundle
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.model.wire import INPUTS
from gesso_backend.serving.events import Event
from gesso_client.events import Image, Preview, Progress, Reading
from gesso_client.models import ModelInfo
from gesso_client.request import CLIENT_OPTIONS, Options, build
from gesso_client.transport.contract import ONCE

PICTURES = {"image": [-1, -1, 3], "mask_image": [-1, -1]}
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
MASK = np.pad(np.full((10, 10), 255, np.uint8), ((5, 5), (10, 10)))

# Triton's names for data types differ between its configuration and its wire.
DATA_TYPES = {"TYPE_STRING": "BYTES"}


def declared(tensors: Any) -> dict[str, str]:
    """Name -> datatype on the wire."""
    names = {tensor.name: model_config_pb2.DataType.Name(tensor.data_type) for tensor in tensors}
    return {name: DATA_TYPES.get(kind, kind.removeprefix("TYPE_")) for name, kind in names.items()}


# The models


def test_the_models_are_what_the_design_says(config: Any) -> None:
    """Guards decoupling: with it wrong, Triton refuses every request of one kind of client."""
    assert config.backend == "python"
    assert config.max_batch_size == 0
    assert config.model_transaction_policy.decoupled is (config.name == "inpaint")
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)  # the engine decides where it computes, not Triton
    ]
    assert not config.parameters  # valid as committed; gesso-serve adds its own


@pytest.mark.parametrize(
    ("model", "module", "shim"),
    [("inpaint", "inpaint", "InpaintModel"), (f"inpaint{ONCE}", "once", "InpaintOnceModel")],
)
def test_the_shims_are_one_line(model: str, module: str, shim: str) -> None:
    """Guards against logic where no test reaches it."""
    (line,) = (ROOT / "model_repository" / model / "1" / "model.py").read_text().splitlines()
    assert line.startswith(f"from gesso_backend.triton.{module} import {shim} as TritonPythonModel")
    assert f"\nclass {shim}(" in (ROOT / f"python_backend/src/gesso_backend/triton/{module}.py").read_text()


def test_no_name_is_one_that_triton_keeps_for_itself(config: Any) -> None:
    """Guards against parameters and tensors that never arrive."""
    for tensor in [*config.input, *config.output]:
        assert tensor.name not in ("timeout", "priority", "headers")
        assert not tensor.name.startswith(("sequence_", "triton_"))


# Inputs


def test_the_backend_reads_the_inputs_that_are_declared(config: Any) -> None:
    """Guards an input that Triton lets through and the backend refuses, or the other way round; and the order."""
    assert tuple(tensor.name for tensor in config.input) == INPUTS


def test_the_inputs_are_of_the_bundles_types_and_shapes(config: Any, everything: dict[str, DiffusionBundle]) -> None:
    """Guards dtypes: with FP64 for FP32, every client in the world would be told so."""
    wanted = {"string": "BYTES", "int": "INT32", "float": "FP32", "bool": "BOOL", "ints": "INT32", "floats": "FP32"}
    types_found = declared(config.input)
    for tensor in config.input:
        if tensor.name in PICTURES:
            assert types_found[tensor.name] == "UINT8"
            assert list(tensor.dims) == PICTURES[tensor.name]
        else:
            spec = everything[tensor.name].parameters[tensor.name]
            assert types_found[tensor.name] == ("INT64" if tensor.name == "seed" else wanted[spec.type])
            assert list(tensor.dims) == [-1 if spec.type in ("ints", "floats") else 1]
        assert tensor.optional  # which of them a request needs, its kind says


def test_int32_holds_every_bound_it_has_to(config: Any, everything: dict[str, DiffusionBundle]) -> None:
    """Guards a bound that no client could send."""
    for name, kind in declared(config.input).items():
        if kind in ("INT32", "INT64"):
            spec, limits = everything[name].parameters[name], np.iinfo(kind.lower())
            assert spec.minimum is not None
            assert spec.maximum is not None
            assert limits.min <= spec.minimum < spec.maximum <= limits.max


def test_the_client_sends_what_is_declared(config: Any, info: ModelInfo) -> None:
    """Guards the datatypes that the server tells the client, and its keyword arguments, which have the wire's names."""
    scalars = {name: kind for name, kind in declared(config.input).items() if name not in PICTURES}
    for name, parameter in info.parameters.items():
        assert parameter.datatype == np_to_triton_dtype(parameter.dtype) == scalars[name]
    assert set(Options.__annotations__) - set(CLIENT_OPTIONS) == set(scalars) - {"prompt"} - OF_PICTURES


REQUESTS: dict[str, tuple[str, Any, Any, Options]] = {
    "nothing said": ("text_to_image", None, None, {}),
    "a size": ("text_to_image", None, None, {"height": 64, "width": 128, "seed": 0}),
    "own steps": ("text_to_image", None, None, {"scheduler": "euler", "timesteps": [900, 500, 7]}),
    "own sigmas": ("text_to_image", None, None, {"scheduler": "euler", "sigmas": [14.6, 0.7, 0]}),
    "a picture": ("image_to_image", IMAGE, None, {"strength": 0.7, "guidance_scale": 1.0}),
    "everything": (
        "inpaint", IMAGE, MASK,
        {
            "negative_prompt": "ünï", "negative_prompt_strength": 0.3, "prompt_weighting": True, "long_prompt": False,
            "clip_skip": 1, "num_inference_steps": 7, "guidance_scale": 2.3, "strength": 0.55,
            "guidance_rescale": 0.7, "seed": 2**63 - 9, "scheduler": "ddim", "eta": 0.2, "timestep_spacing": "trailing",
            "num_images_per_prompt": 2, "padding_mask_crop": -1, "mask_feather": 3, "latent_blend": False,
            "require_native": True, "preview_every": 2, "prompt_2": "two", "negative_prompt_2": "not two",
            "true_cfg_scale": 2.5, "max_sequence_length": 77, "original_size": [512, 300], "target_size": [3, 4],
            "crops_coords_top_left": [0, 7], "negative_original_size": [5, 6], "negative_target_size": [8, 9],
            "negative_crops_coords_top_left": [1, 0],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REQUESTS)
def test_what_the_client_builds_the_backend_reads_as_it_was_meant(
    case: str, bundle: DiffusionBundle, info: ModelInfo, config: Any
) -> None:
    """Guards the whole way of every option, from a keyword argument to the backend's request, types included."""
    task, image, mask, everything = REQUESTS[case]
    options: Any = {name: value for name, value in everything.items() if name in bundle.parameters}
    bounds = bundle.parameters["scheduler"].choices, getattr(bundle.parameters.get("clip_skip"), "maximum", 0)
    if "scheduler" in options and options["scheduler"] not in (bounds[0] or ()):
        options["scheduler"] = bundle.parameters["scheduler"].default
    if bundle.family == "flux" and "sigmas" in options:
        options["sigmas"] = [1, 0.7, 0.1]
    if options.get("clip_skip", 0) > bounds[1]:
        options["clip_skip"] = bounds[1]
    sent = build(info, task, "a fox", image, mask, options, live=True)  # type: ignore[arg-type]
    types_declared = declared(config.input)
    for name, array in sent.inputs.items():
        assert np_to_triton_dtype(array.dtype) == types_declared[name]
    request = parse(dict(sent.inputs), bundle)
    assert request.task == task
    assert request.prompt == "a fox"
    for name, value in options.items():
        assert getattr(request, name) == (tuple(value) if isinstance(value, list) else value)
    assert (request.height, request.width) == (sent.height, sent.width)
    assert request.num_images_per_prompt == sent.count
    for name, pixels in (("image", image), ("mask_image", mask)):
        assert (getattr(request, name) is None) is (pixels is None)
        if pixels is not None:
            np.testing.assert_array_equal(getattr(request, name), pixels)


# Outputs

EVENTS = [
    Event("progress", 2, 5, 1, 2**40),
    Event("preview", 2, 5, 1, 2**40, IMAGE),
    Event("image", 5, 5, 1, 2**40, IMAGE, '{"warnings": ["ünï"]}'),
]


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend's own translation of an event, as name -> array."""
    api: Any = types.ModuleType("triton_python_backend_utils")
    api.Tensor = lambda name, array: (name, array)
    monkeypatch.setitem(sys.modules, api.__name__, api)
    monkeypatch.delitem(sys.modules, "gesso_backend.triton.channel", raising=False)
    module = importlib.import_module("gesso_backend.triton.channel")
    yield lambda event: dict(module.tensors(event))
    sys.modules.pop("gesso_backend.triton.channel", None)


def test_the_backend_answers_with_what_is_declared(config: Any, tensors: Any) -> None:
    """Guards names, types and shapes of every response, which Triton checks only one by one, at run time."""
    assert {tensor.name for tensor in config.output} == set(Event.__dataclass_fields__)
    types_declared = declared(config.output)
    assert types_declared == {
        "event": "BYTES", "step": "INT32", "num_steps": "INT32", "index": "INT32", "image": "UINT8", "seed": "INT64",
        "report": "BYTES",
    }  # fmt: skip
    for event in EVENTS:
        answered = tensors(event)
        assert {name: np_to_triton_dtype(array.dtype) for name, array in answered.items()} == types_declared
        for tensor in config.output:
            found = answered[tensor.name].shape
            assert len(found) == len(tensor.dims)
            assert all(want in (-1, have) for want, have in zip(tensor.dims, found, strict=True))


def test_the_client_reads_what_the_backend_answers_and_no_name_besides(config: Any, tensors: Any) -> None:
    """Guards the way back: each event arrives as the type and with the values it left with."""

    read: set[str] = set()

    class Noted(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

    reading = Reading(count=1)
    progress, preview, image = (reading.event(Noted(tensors(event))) for event in EVENTS)
    reading.end()
    assert read <= {tensor.name for tensor in config.output}
    assert progress == Progress(step=2, num_steps=5, index=1)
    assert isinstance(preview, Preview)
    assert (preview.step, preview.num_steps, preview.index) == (2, 5, 1)
    assert isinstance(image, Image)
    assert (image.seed, image.index, image.report) == (2**40, 1, {"warnings": ["ünï"]})
    for picture in (preview.image, image.image):
        np.testing.assert_array_equal(np.asarray(picture), IMAGE)
