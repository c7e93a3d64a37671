"""What the builder asks of Polygraphy and TensorRT, and how an engine is held against ONNX Runtime; by fakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.test_engines_spec import SPEC
from gesso_export.errors import BuildError
from gesso_export.proof.reference import Case
from gesso_export.tensorrt import check, plan, quantize
from gesso_export.tensorrt.spec import Options, Spec


class Monitor:
    """tensorrt.IProgressMonitor"""


TRT: Any = SimpleNamespace(
    __version__="11.4.0.106",
    BuilderFlag=SimpleNamespace(DISTRIBUTIVE_INDEPENDENCE="independent"),
    IProgressMonitor=Monitor,
    MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
)


class Polygraphy:
    """polygraphy.backend.trt, as far as it is asked; a build runs through two phases."""

    def __init__(self, inputs: tuple[str, ...] = ("sample",), error: str = "") -> None:
        self.inputs, self.error = inputs, error
        self.options: dict[str, Any] = {}
        self.flags: list[Any] = []
        self.parsed: dict[str, Any] = {}

    class Profile(dict[str, Any]):
        def add(self, name: str, min: Any, opt: Any, max: Any) -> Any:
            self[name] = (min, opt, max)
            return self

    def NetworkFromOnnxPath(self, path: str, strongly_typed: bool) -> Any:
        self.parsed = {"path": path, "strongly_typed": strongly_typed}
        network = SimpleNamespace(
            num_inputs=len(self.inputs), get_input=lambda index: SimpleNamespace(name=self.inputs[index])
        )
        return lambda: ("builder", network, "parser")

    def CreateConfig(self, **options: Any) -> Any:
        self.options = options
        return SimpleNamespace(set_flag=self.flags.append)

    def PostprocessConfig(self, config: Any, function: Any) -> Any:
        function("builder", "network", config)
        return config

    def EngineBytesFromNetwork(self, network: Any, config: Any, save_timing_cache: str) -> Any:
        assert network[::2] == ("builder", "parser")
        monitor = self.options["progress_monitor"]

        def build() -> bytes:
            if self.error:
                raise RuntimeError(self.error)
            monitor.phase_start("Building", None, 2)
            goes_on = [monitor.step_complete("Building", step) for step in range(2)]
            monitor.phase_finish("Building")
            Path(save_timing_cache).write_bytes(b"cache")
            return b"plan" if all(goes_on) else b""

        return build


def test_the_graph_decides_the_types_and_the_spec_everything_else(tmp_path: Path) -> None:
    """Guards strong typing: no precision flag, and every option of the spec where TensorRT looks for it."""
    events: list[Any] = []
    options = Options(refittable=True, weight_streaming=True, optimization_level=5, workspace_mib=64)
    spec = dataclasses.replace(SPEC, options=options)
    poly, cache = Polygraphy(), tmp_path / "timing.cache"
    assert plan.build(tmp_path / "unet.onnx", spec, cache, events.append, TRT, poly) == b"plan"
    assert poly.parsed == {"path": str(tmp_path / "unet.onnx"), "strongly_typed": True}
    monitor = poly.options.pop("progress_monitor")
    assert isinstance(monitor, Monitor)
    assert poly.options == {
        "profiles": [{"sample": ((1, 9, 64, 64), (8, 9, 64, 64), (8, 9, 64, 64))}],
        "tf32": False, "refittable": True, "weight_streaming": True, "builder_optimization_level": 5,
        "memory_pool_limits": {"workspace": 64 * 2**20},
    }  # fmt: skip
    assert poly.flags == ["independent"]
    assert [event["event"] for event in events] == ["phase", "step", "step", "end"]
    # The next build begins with what this one has learned.
    plan.build(tmp_path / "unet.onnx", SPEC, cache, events.append, TRT, poly)
    assert poly.options["load_timing_cache"] == str(cache)


def test_a_build_stops_when_nobody_listens(tmp_path: Path) -> None:
    """Guards the GPU: a pipe without a reader is a parent that is gone, and no exception may cross TensorRT."""

    def gone(event: Any) -> None:
        raise BrokenPipeError

    assert plan.build(tmp_path / "unet.onnx", SPEC, tmp_path / "cache", gone, TRT, Polygraphy()) == b""


def test_equal_rows_are_promised_or_refused(tmp_path: Path) -> None:
    """Guards the default against a TensorRT that does not know the flag."""
    old = SimpleNamespace(**{**vars(TRT), "BuilderFlag": SimpleNamespace(), "__version__": "10.0"})
    arguments: Any = (tmp_path / "cache", print, old)
    with pytest.raises(BuildError, match=r"TensorRT 10\.0 cannot keep rows equal; see --no-row-independence"):
        plan.build(tmp_path / "unet.onnx", SPEC, *arguments, Polygraphy())
    spec, poly = dataclasses.replace(SPEC, options=Options(row_independence=False)), Polygraphy()
    plan.build(tmp_path / "unet.onnx", spec, *arguments, poly)
    assert poly.flags == []


@pytest.mark.parametrize(
    ("poly", "reason"),
    [
        (Polygraphy(inputs=("sample", "extra")), "sees the inputs .'extra', 'sample'., not .'sample'."),
        (Polygraphy(error="no kernel\nfor this"), "unet: TensorRT cannot build it: no kernel; see the log"),
    ],
)
def test_what_goes_wrong_in_a_build_names_the_network(tmp_path: Path, poly: Polygraphy, reason: str) -> None:
    """Guards against Polygraphy's exceptions, which belong to no tree of ours."""
    with pytest.raises(BuildError, match=reason):
        plan.build(tmp_path / "unet.onnx", SPEC, tmp_path / "cache", print, TRT, poly)


SMALL = dataclasses.replace(
    SPEC,
    precision="fp32",
    profiles=tuple(
        dataclasses.replace(SPEC.profiles[0], name=name, shapes={
            "sample": type(SPEC.profiles[0].shapes["sample"])((1, 2, 4), (high, 2, 4), (high, 2, 4))
        }) for name, high in (("a", 2), ("b", 4))
    ),
)  # fmt: skip
CASES = [Case({"sample": np.random.default_rng(1).standard_normal((2, 2, 4), np.float32)}, {})]


def double(inputs: Any) -> Any:
    return {"y": inputs["sample"] * 2}


def under(answer: Callable[[Any], Any]) -> Callable[[int], Any]:
    def profile(index: int) -> Any:
        def run(inputs: Any) -> Any:
            assert len(inputs["sample"]) <= (2, 4)[index], "beyond the profile"
            return answer(inputs)

        return run

    return profile


def test_every_profile_is_looked_at_at_its_ends_and_where_it_is_tuned() -> None:
    """Guards shapes that nobody tried."""
    found = check.compare(SMALL, CASES, under(double), double)
    assert found == {
        "against": "ONNX Runtime, CUDAExecutionProvider", "shapes": 3, "largest_error": 0.0,
        "rows_independent_of_their_place": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda i: {"y": i["sample"] * 2.01}, "unet, a min: y is off by .*; 3e-04 is allowed"),
        (lambda i: {"y": i["sample"] * np.nan}, "y is off by nan"),
        (lambda i: {"y": (i["sample"] * 2)[:, :1]}, r"y is \(1, 1, 4\), not \(1, 2, 4\)"),
        (lambda i: {"z": i["sample"] * 2}, "y is missing"),
        (lambda i: {"y": i["sample"] * (2 if len(i["sample"]) < 4 else 3)}, "unet, b opt: y is off"),
    ],
)
def test_an_engine_that_computes_something_else_is_refused(answer: Callable[[Any], Any], reason: str) -> None:
    """Guards publication: what is in a bundle computes what its network does."""
    with pytest.raises(BuildError, match=reason):
        check.compare(SMALL, CASES, under(answer), double)


def test_rows_that_know_their_place_are_recorded() -> None:
    """Guards the record that says whether a server may batch by this engine."""

    def by_place(inputs: Any) -> Any:
        return {"y": inputs["sample"] * 2 + np.arange(len(inputs["sample"]))[:, None, None] * 1e-6}

    assert not check.compare(SMALL, CASES, under(by_place), double)["rows_independent_of_their_place"]


def test_a_quantised_engine_is_held_to_a_mean() -> None:
    """Guards fp8 and int8: one value far off is theirs by nature, all of them are not."""
    spec: Spec = dataclasses.replace(SMALL, quantize="fp8")

    def one_off(inputs: Any) -> Any:
        y = inputs["sample"] * 2
        y.flat[0] += 0.1 * y.std()
        return {"y": y}

    check.compare(spec, CASES, under(one_off), double)
    with pytest.raises(BuildError, match="1e-01 is allowed"):
        check.compare(spec, CASES, under(lambda i: {"y": i["sample"] * 2.4}), double)


def test_inputs_are_drawn_from_what_the_network_knows() -> None:
    """Guards token ids, which have an end, and timesteps."""
    cases = [Case({"ids": np.array([[3, 9], [5, 3]]), "t": np.array([0.5, 999.0], np.float32)}, {})]
    drawn = check.inputs_like(cases, {"ids": (7, 5), "t": (7,)})
    assert drawn["ids"].shape == (7, 5)
    assert set(drawn["ids"].ravel()) == {3, 5, 9}
    assert set(drawn["t"]) == {0.5, 999.0}
    assert drawn["ids"].dtype == np.int64
    np.testing.assert_array_equal(drawn["ids"], check.inputs_like(cases, {"ids": (7, 5), "t": (7,)})["ids"])


def test_an_engine_is_not_verified_on_the_cpu(tmp_path: Path) -> None:
    """Guards 'verified on the same GPU' against an ONNX Runtime that has none."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BuildError, match="cannot be verified: this onnxruntime has no CUDA"):
        check.onnx_runtime(tmp_path / "unet.onnx", 0, onnxruntime)


def test_quantising_reads_every_reference_case_and_must_write(tmp_path: Path) -> None:
    """Guards the calibration, which otherwise sees noise; and against a graph that was left as it is."""
    cases = [Case({"sample": np.full((1, 2), number, np.float32)}, {}) for number in range(3)]
    out = tmp_path / "unet.fp8.onnx"

    def modelopt(write: bool) -> Any:
        def run(**options: Any) -> None:
            reader = options["calibration_data_reader"]
            assert reader.get_first()["sample"][0, 0] == 0
            for _ in range(2):
                reader.rewind()
                seen = [inputs["sample"][0, 0] for inputs in iter(reader.get_next, None)]
                assert seen == [0, 1, 2]
            assert (options["quantize_mode"], options["high_precision_dtype"]) == ("fp8", "fp16")
            if write:
                Path(options["output_path"]).write_bytes(b"graph")

        return SimpleNamespace(quantize=run)

    with pytest.raises(BuildError, match="was not quantised"):
        quantize.quantize(tmp_path / "unet.onnx", "fp8", "fp16", cases, out, modelopt(write=False))
    quantize.quantize(tmp_path / "unet.onnx", "fp8", "fp16", cases, out, modelopt(write=True))

    def broken(**_: Any) -> None:
        raise AssertionError("no such opset")

    with pytest.raises(BuildError, match=r"unet\.onnx cannot be quantised to fp8: no such opset"):
        quantize.quantize(tmp_path / "unet.onnx", "fp8", "fp16", cases, out, SimpleNamespace(quantize=broken))
