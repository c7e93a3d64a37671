"""Networks as Triton models: what is written for them, the shim that runs them, and the engine that calls them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from backend.engines_fakes import CAPABILITY, GPU, TENSORRT, write_engine
from backend.fakes import fake_bundle, write_bundle
from backend.real import Real
from backend.test_engine import rows_of
from gesso_backend.arrays import Arrays
from gesso_backend.engines.engine import EngineError, Outputs, load
from gesso_backend.engines.tensorrt.plan import Machine
from gesso_backend.host import repository
from gesso_backend.host.network_repository import write_networks
from gesso_backend.host.private import write_private
from gesso_backend.kinds import open_bundle
from gesso_backend.settings import Settings
from gesso_backend.triton.network import network_model

NETWORKS = ["text_encoder", "unet", "vae_encoder", "vae_decoder"]


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def test_gesso_serve_writes_a_model_for_each_network(tmp_path: Path) -> None:
    """Guards the names, and that only this engine's servers have them."""
    folder = write_bundle(tmp_path / "a bundle")
    assert repository.write(tmp_path / "plain", {"inpaint": folder}, Settings()) == ["inpaint", "inpaint_once"]
    names = repository.write(tmp_path / "models", {"mine": folder}, Settings(engine="triton", threads=3))
    assert names == ["mine", "mine_once", *(f"mine_{network}" for network in NETWORKS)]
    config = config_of(tmp_path / "models" / "mine_unet")
    assert (config.backend, config.max_batch_size) == ("python", 0)
    assert [(port.name, model_config_pb2.DataType.Name(port.data_type), list(port.dims)) for port in config.input] == [
        ("sample", "TYPE_FP32", [-1, 9, -1, -1]),
        ("timestep", "TYPE_FP32", [-1]),
        ("encoder_hidden_states", "TYPE_FP32", [-1, -1, 4]),
    ]
    assert [(port.name, list(port.dims)) for port in config.output] == [("noise_pred", [-1, 4, -1, -1])]
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "network": "unet", "threads": "3"
    }  # fmt: skip
    assert (tmp_path / "models" / "mine_unet" / "1" / "bundle").samefile(folder)
    ids = config_of(tmp_path / "models" / "mine_text_encoder").input[0]
    assert model_config_pb2.DataType.Name(ids.data_type) == "TYPE_INT64"


def test_the_denoiser_can_have_an_instance_on_each_gpu(tmp_path: Path) -> None:
    """Guards what the triton engine is for."""
    folder = write_bundle(tmp_path / "bundle")
    settings = Settings(engine="triton", providers="cuda", device=1, network_gpus="0,1,3")
    repository.write(tmp_path / "models", {"inpaint": folder}, settings)
    (group,) = config_of(tmp_path / "models" / "inpaint_unet").instance_group
    assert (group.kind, list(group.gpus)) == (group.KIND_GPU, [0, 1, 3])
    (group,) = config_of(tmp_path / "models" / "inpaint_vae_decoder").instance_group
    assert list(group.gpus) == [1]


def test_tritons_own_backends_read_what_is_linked_for_them(tmp_path: Path) -> None:
    """Guards gigabytes against being copied, and weights against a name that the graph does not know."""
    folder = write_bundle(tmp_path / "bundle")
    bundle = open_bundle(folder)
    (folder / "unet.onnx.data").write_bytes(b"weights")
    onnx = Settings(engine="triton", network_backend="onnxruntime")
    assert write_networks(tmp_path / "onnx", "inpaint", folder, bundle, onnx) == []  # no process of Python's
    version = tmp_path / "onnx" / "inpaint_unet" / "1"
    assert config_of(version.parent).platform == "onnxruntime_onnx"
    assert (version / "model.onnx").samefile(folder / "unet.onnx")
    assert (version / "unet.onnx.data").samefile(folder / "unet.onnx.data")

    plans = Settings(engine="triton", network_backend="tensorrt")
    machine = Machine(GPU, CAPABILITY, TENSORRT)
    for network in bundle.networks:
        write_engine(folder, bundle, network)
    write_networks(tmp_path / "plans", "inpaint", folder, bundle, plans, machine)
    assert config_of(tmp_path / "plans" / "inpaint_unet").platform == "tensorrt_plan"
    assert (tmp_path / "plans" / "inpaint_unet" / "1" / "model.plan").read_bytes().endswith(b"unet")
    foreign = Machine("NVIDIA L4", "8.9", TENSORRT)
    with pytest.raises(EngineError, match="this is NVIDIA L4"):
        write_networks(tmp_path / "foreign", "inpaint", folder, bundle, plans, foreign)


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


PB_UTILS = SimpleNamespace(
    Tensor=Tensor,
    TritonError=lambda message: message,
    InferenceResponse=lambda tensors=None, error=None: SimpleNamespace(tensors=tensors, error=error),
)


def test_the_shim_answers_as_the_engine_and_each_request_for_itself(real: Real, tmp_path: Path) -> None:
    """Guards the network's own process: its one network, and errors that stay with their request."""
    network, spec = "unet", real.bundle.networks["unet"]
    model = network_model(PB_UTILS)()
    (tmp_path / "1").mkdir()
    write_private(tmp_path / "1", real.folder, Settings())
    config = {"parameters": {"network": {"string_value": network}}}
    model.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
    inputs = rows_of(network, spec, real.bundle.vae.factor, 4, 6)
    good = SimpleNamespace(inputs=lambda: [Tensor(name, array) for name, array in inputs.items()])
    bad = SimpleNamespace(inputs=lambda: [Tensor("sample", inputs["sample"])])
    first, refused, second = model.execute([good, bad, good])
    assert refused.error.endswith("the server's log says why")
    for answer in (first, second):
        np.testing.assert_array_equal(
            answer.tensors[0].as_numpy(), real.engines[network](**inputs)[answer.tensors[0].name()]
        )


def test_the_engine_calls_its_network_and_pads_for_backends_on_a_gpu() -> None:
    """Guards the names of the outputs, and rows against batch sizes where Triton's own backends compute."""
    calls: list[tuple[str, int, Sequence[str]]] = []

    def call(network: str, inputs: Arrays, outputs: Sequence[str]) -> Outputs:
        calls.append((network, len(inputs["latents"]), outputs))
        return {"image": inputs["latents"] * 2}

    latents = np.ones((3, 4, 2, 2), np.float32)
    bundle = fake_bundle()
    for backend, sizes in (("python", [3]), ("tensorrt", [4, 4])):
        settings = Settings(engine="triton", network_backend=backend, max_vae_rows=4)
        engines = load(settings, Path(), bundle, call)
        calls.clear()
        np.testing.assert_array_equal(engines.engine("vae_decoder")(latents=latents)["image"], latents * 2)
        assert calls == [("vae_decoder", size, ("image",)) for size in sizes]  # one more, to try the places


def test_outside_triton_it_says_so() -> None:
    """Guards `engine = triton` in a server that is not one."""
    with pytest.raises(EngineError, match="only inside Triton"):
        load(Settings(engine="triton"), Path(), fake_bundle())
