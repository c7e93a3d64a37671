"""The child's whole way, from its task to what it says, with the network's own graph on the CPU in TensorRT's place."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from export.test_engines_plan import TRT, Polygraphy
from export.test_engines_spec import H100, Cuda
from gesso_export.bundle import manifest
from gesso_export.errors import BuildError
from gesso_export.tensorrt import builder, gpu, profiles
from gesso_export.tensorrt import task as tasks
from gesso_export.tensorrt.build import BuildSettings, specs
from gesso_export.tensorrt.spec import Spec
from gesso_export.tensorrt.task import BuildTask

NETWORK = "vae_decoder"


class Runs(Polygraphy):
    """Polygraphy whose engine is the graph itself, on the CPU, a little off where that is wanted."""

    def __init__(self, folder: Path, off: float = 0.0) -> None:
        super().__init__(inputs=("latents",))
        self.session = onnxruntime.InferenceSession(str(folder / f"{NETWORK}.onnx"), providers=["CPUExecutionProvider"])
        self.off = off

    def EngineFromBytes(self, plan: bytes) -> Any:
        assert plan == b"plan"
        return lambda: "engine"

    def TrtRunner(self, engine: Any, optimization_profile: int, allocation_strategy: str) -> Any:
        poly = self

        class Runner:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None: ...

            def infer(self, feed_dict: Any) -> Any:
                image = poly.session.run(["image"], feed_dict)[0]
                return {"image": image + np.float32(poly.off)}

        return Runner()


@pytest.fixture
def task(bundle: Path, tmp_path: Path) -> BuildTask:
    settings = BuildSettings(sizes=(profiles.parse("p=1x64x64,2x64x64,2x64x72"),), vae_batch=2, networks=(NETWORK,))
    (spec,) = specs(manifest.read(bundle), settings, H100, TRT.__version__)
    return BuildTask(bundle, spec, tmp_path, tmp_path / "timing.cache", 0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> Callable[..., tuple[dict[str, Any], list[Any]]]:
    """Run a task over fakes; returns what it found and its events."""

    def run(task: BuildTask, off: float = 0.0, here: str = H100) -> tuple[dict[str, Any], list[Any]]:
        cpu = SimpleNamespace(
            SessionOptions=onnxruntime.SessionOptions,
            get_available_providers=lambda: ["CUDAExecutionProvider"],
            InferenceSession=lambda path, options, providers: SimpleNamespace(
                get_providers=lambda: ["CUDAExecutionProvider"],
                get_outputs=real.get_outputs,
                run=real.run,
            ),
        )
        real = onnxruntime.InferenceSession(str(bundle / f"{NETWORK}.onnx"), providers=["CPUExecutionProvider"])
        modules = {
            "tensorrt": TRT,
            "polygraphy.backend.trt": Runs(bundle, off),
            "cuda.bindings.runtime": SimpleNamespace(cudaSetDevice=lambda device: (0,)),
            "onnxruntime": cpu,
        }
        monkeypatch.setattr(builder, "optional", modules.__getitem__)
        monkeypatch.setattr(gpu, "look", lambda device: gpu.Gpu(here, "9.0"))
        stream = io.StringIO()
        found = builder.run(tasks.read(task.write()), stream)
        return found, [json.loads(line) for line in stream.getvalue().splitlines()]

    return run


def test_a_task_is_built_verified_and_reported(task: BuildTask, run: Callable[..., Any]) -> None:
    """Guards the order and the words between child and parent."""
    found, events = run(task)
    assert (task.staging / found["plan"]).read_bytes() == b"plan"
    assert found["sha256"] == hashlib.sha256(b"plan").hexdigest()
    assert (found["bytes"], found["compute_capability"]) == (4, "9.0")
    assert found["verified"]["shapes"] == 3
    assert found["verified"]["largest_error"] == 0
    assert found["verified"]["rows_independent_of_their_place"] is True
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages == ["build", "verify"]
    assert (task.staging / "timing.cache").read_bytes() == b"cache"
    assert not list(task.bundle.glob("*.plan"))  # the bundle is the parent's to write to


def test_an_engine_that_is_off_is_not_reported_as_built(task: BuildTask, run: Callable[..., Any]) -> None:
    """Guards publication: `done` is what the parent publishes on."""
    with pytest.raises(BuildError, match="vae_decoder, p min: image is off by"):
        run(task, off=0.01)


@pytest.mark.parametrize(("here", "tensorrt"), [("NVIDIA L4", TRT.__version__), (H100, "10.13.3.9")])
def test_a_task_for_another_machine_is_refused(
    task: BuildTask, run: Callable[..., Any], here: str, tensorrt: str
) -> None:
    """Guards a key that names what the engine was not built on."""
    spec: Spec = dataclasses.replace(task.spec, tensorrt=tensorrt)
    with pytest.raises(BuildError, match=f"the engine is for {H100} and TensorRT {tensorrt}; this is {here}"):
        run(dataclasses.replace(task, spec=spec), here=here)


def test_the_gpu_is_looked_at_as_the_command_does() -> None:
    """Guards the fake above: it stands in for this."""
    assert gpu.look(0, Cuda()) == gpu.Gpu(H100, "9.0")
