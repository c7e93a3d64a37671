"""What the builder uses of TensorRT, Polygraphy and modelopt, against the real modules.

`make test-slow` installs TensorRT's lean runtime, which has the builder's enums but not the builder, and Polygraphy,
whose own code runs here over a builder that only writes down what it is told. What needs the builder's own classes, or
modelopt, is left to `make test-gpu`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.test_engines_spec import SPEC
from gesso_export.tensorrt import plan
from gesso_export.tensorrt.spec import Options


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    try:
        module = importlib.import_module("tensorrt")
    except ImportError:
        module = importlib.import_module("tensorrt_lean")
    monkeypatch.setitem(sys.modules, "tensorrt", module)  # by which Polygraphy knows it
    return module


@pytest.mark.slow
def test_tensorrt_has_the_enums_that_are_used(trt: Any) -> None:
    """Guards names that a release takes away; TensorRT 11 took the precision flags."""
    assert {"DISTRIBUTIVE_INDEPENDENCE", "REFIT", "WEIGHT_STREAMING", "TF32"} <= set(trt.BuilderFlag.__members__)
    assert "WORKSPACE" in trt.MemoryPoolType.__members__


@pytest.mark.gpu
def test_tensorrt_has_what_is_used_of_its_builder() -> None:
    """Guards the methods the same way."""
    trt = pytest.importorskip("tensorrt")
    assert hasattr(trt.IBuilderConfig, "set_flag")
    for name in ("num_inputs", "get_input"):
        assert hasattr(trt.INetworkDefinition, name)


@pytest.mark.slow
def test_the_monitor_is_one_of_tensorrts(trt: Any) -> None:
    """Guards the three methods that TensorRT calls, by its own names for their arguments."""
    events: list[Any] = []
    monitor = plan.monitor(events.append, trt)
    assert isinstance(monitor, trt.IProgressMonitor)
    monitor.phase_start("a", None, 3)
    assert monitor.step_complete("a", 0) is True
    monitor.phase_finish("a")
    assert [event["event"] for event in events] == ["phase", "step", "end"]
    for name in ("phase_start", "step_complete", "phase_finish"):
        documented = getattr(trt.IProgressMonitor, name).__doc__
        for parameter in list(inspect.signature(getattr(monitor, name)).parameters):
            assert f"{parameter}: " in documented, (name, parameter)


class Recorder:
    """A builder, its config and a profile that write down what they are given."""

    def __init__(self) -> None:
        self.flags: list[Any] = []
        self.cleared: list[Any] = []
        self.shapes: list[Any] = []
        self.limits: list[Any] = []
        self.profiles: list[Any] = []

    def create_builder_config(self) -> Recorder:
        return self

    def create_optimization_profile(self) -> Any:
        def set_shape(name: str, low: Any, best: Any, high: Any) -> None:
            self.shapes.append((name, tuple(low), tuple(best), tuple(high)))

        return SimpleNamespace(set_shape=set_shape, extra_memory_target=1.0)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return 0

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag)

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.limits.append((pool, size))

    def create_timing_cache(self, data: Any) -> Any:
        return "cache"

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> None: ...


@pytest.mark.slow
def test_polygraphy_passes_on_what_it_is_asked(trt: Any, tmp_path: Path) -> None:
    """Guards keyword names of CreateConfig and Profile, and which of TensorRT's flags come of them."""
    polygraphy = importlib.import_module("polygraphy.backend.trt")
    options = Options(refittable=True, weight_streaming=True, optimization_level=5, workspace_mib=64)
    spec = dataclasses.replace(SPEC, options=options)
    recorder = Recorder()
    tensor = SimpleNamespace(name="sample", shape=(-1, 9, -1, -1), is_shape_tensor=False, dtype=None)
    network = type("Network", (list,), {})()
    network.num_inputs, network.get_input = 1, lambda index: tensor
    made = plan.config_options(spec, tmp_path / "none", print, trt, polygraphy)
    config = polygraphy.PostprocessConfig(
        polygraphy.CreateConfig(**made), lambda _builder, _network, config: plan._set_flags(config, spec, trt)
    )
    assert config(recorder, network) is recorder
    flags = trt.BuilderFlag
    assert set(recorder.flags) == {flags.REFIT, flags.WEIGHT_STREAMING, flags.DISTRIBUTIVE_INDEPENDENCE}
    assert recorder.cleared == [flags.TF32]
    assert recorder.shapes == [("sample", (1, 9, 64, 64), (8, 9, 64, 64), (8, 9, 64, 64))]
    assert recorder.limits == [(trt.MemoryPoolType.WORKSPACE, 64 * 2**20)]
    assert recorder.builder_optimization_level == 5  # type: ignore[attr-defined]
    assert isinstance(recorder.progress_monitor, trt.IProgressMonitor)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_polygraphy_has_the_loaders_that_are_used(trt: Any) -> None:
    """Guards names and keywords of what a recorder cannot stand in for."""
    polygraphy = importlib.import_module("polygraphy.backend.trt")
    for name, keywords in {
        "NetworkFromOnnxPath": {"strongly_typed"},
        "EngineBytesFromNetwork": {"network", "config", "save_timing_cache"},
        "EngineFromBytes": {"serialized_engine"},
        "TrtRunner": {"engine", "optimization_profile", "allocation_strategy"},
    }.items():
        assert keywords <= set(inspect.signature(getattr(polygraphy, name).__init__).parameters), name
    assert "feed_dict" in inspect.signature(polygraphy.TrtRunner.infer).parameters


@pytest.mark.gpu
def test_modelopt_takes_what_it_is_given() -> None:
    """Guards the keywords of its one function."""
    modelopt = pytest.importorskip("modelopt.onnx.quantization")
    taken = {"onnx_path", "quantize_mode", "calibration_data_reader", "calibration_eps", "high_precision_dtype",
             "use_external_data_format", "output_path", "log_level"}  # fmt: skip
    assert taken <= set(inspect.signature(modelopt.quantize).parameters)
