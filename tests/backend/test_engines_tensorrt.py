"""The TensorRT engine over a runtime and a device of plain memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.engines_fakes import FakeCuda, FakeTensorRT, write_engine
from backend.fakes import write_bundle
from gesso_backend.engines.engine import Engine, EngineError, EngineSet, NoProfile
from gesso_backend.engines.tensorrt import load as loading
from gesso_backend.engines.tensorrt.device import Device
from gesso_backend.engines.tensorrt.engine import MOST_SHAPES, TensorRTEngine
from gesso_backend.engines.tensorrt.plan import Plan
from gesso_backend.errors import InternalError
from gesso_backend.kinds import open_bundle
from gesso_backend.model.bundle import Bundle
from gesso_backend.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return open_bundle(folder)


def rows(count: int, side: int = 8, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "sample": rng.standard_normal((count, 9, side, side), np.float32),
        "timestep": rng.uniform(0, 999, count).astype(np.float32),
        "encoder_hidden_states": rng.standard_normal((count, 8, 4), np.float32),
    }


def expected(inputs: dict[str, Any]) -> Any:
    return inputs["sample"][:, :4] * 2 + inputs["timestep"][:, None, None, None]


def engine(folder: Path, bundle: Bundle, trt: FakeTensorRT, **options: Any) -> TensorRTEngine:
    plan = Plan(write_engine(folder, bundle) / "unet.plan", "unet", ("any", "native"))
    return TensorRTEngine(plan, bundle.networks["unet"], Device(0, trt.cuda), trt, **options)


def test_every_row_gets_its_own_answer_in_every_shape(folder: Path, bundle: Bundle) -> None:
    """Guards buffers and graphs of one shape against those of another: they take turns on one device."""
    trt = FakeTensorRT(FakeCuda())
    run = engine(folder, bundle, trt).run
    for seed in range(3):
        for count, size, side in ((1, 1, 8), (3, 4, 8), (2, 8, 8), (2, 8, 16), (4, 4, 8)):
            inputs = rows(count, side, seed)
            outputs = run(inputs, size)["noise_pred"]
            assert outputs.shape == (size, 4, side, side)
            np.testing.assert_array_equal(outputs[:count], expected(inputs))
            np.testing.assert_array_equal(outputs[count:], np.repeat(outputs[:1], size - count, axis=0))


def test_each_shape_is_captured_once_and_then_launched(folder: Path, bundle: Bundle) -> None:
    """Guards graphs: one per batch size and picture size, replayed on new inputs."""
    cuda = FakeCuda()
    run = engine(folder, bundle, FakeTensorRT(cuda)).run
    for side, seen in ((8, 0), (16, 3), (8, 6)):
        for seed in range(4):
            inputs = rows(2, side, seed)
            np.testing.assert_array_equal(run(inputs, 2)["noise_pred"], expected(inputs))
        # The first run of a shape is plain, and it is captured after it.
        assert cuda.launches == seen + (4 if seen == 6 else 3)


def test_without_graphs_or_where_capture_fails_it_runs_all_the_same(
    folder: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards engines that TensorRT cannot capture."""
    cuda = FakeCuda()
    cuda.cannot_capture = True
    run = engine(folder, bundle, FakeTensorRT(cuda)).run
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            inputs = rows(2, 8, seed)
            np.testing.assert_array_equal(run(inputs, 2)["noise_pred"], expected(inputs))
    assert cuda.launches == 0
    assert "no CUDA graph of this shape" in caplog.text


def test_the_profile_that_reaches_least_beyond_the_shape_is_chosen(folder: Path, bundle: Bundle) -> None:
    """Guards the profile that was tuned for the native size against the one that merely covers it."""
    trt = FakeTensorRT(FakeCuda())
    run = engine(folder, bundle, trt).run
    for size, side, profile in ((4, 8, 1), (1, 8, 1), (8, 8, 0), (4, 16, 0), (1, 2, 0)):
        run(rows(1, side), size)
        assert trt.contexts[-1].profile == profile, (size, side)
    assert len({context.memory for context in trt.contexts}) == 1  # they take turns, and share


def test_a_shape_no_profile_covers_is_said_so(folder: Path, bundle: Bundle) -> None:
    """Guards against TensorRT's own words, which name no shape."""
    sized = engine(folder, bundle, FakeTensorRT(FakeCuda()))
    assert sized.most_rows(rows(1, 8)) == 8
    with pytest.raises(NoProfile, match=r"unet: no profile of the TensorRT engine covers .*\(1, 9, 17, 17\)"):
        sized.most_rows(rows(1, 17))
    with pytest.raises(NoProfile, match=r"\(9, 9, 8, 8\)"):
        sized.run(rows(9, 8), 9)


def test_what_a_forgotten_shape_held_is_given_back(folder: Path, bundle: Bundle) -> None:
    """Guards device memory against clients that send every size there is."""
    cuda = FakeCuda()
    run = engine(folder, bundle, FakeTensorRT(cuda)).run
    shapes = [(size, side) for side in range(2, 17) for size in (1, 2, 3)]
    held = []
    for size, side in shapes:
        run(rows(1, side), size)
        held.append(len(cuda.blocks))
    assert held[MOST_SHAPES] == held[MOST_SHAPES - 1] == max(held) == held[-1]
    inputs = rows(1, 2)
    np.testing.assert_array_equal(run(inputs, 1)["noise_pred"], expected(inputs))


def test_a_call_that_fails_keeps_nothing_and_the_next_is_whole(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards device memory, and a graph of a shape that never ran, against an error in between."""
    trt = FakeTensorRT(FakeCuda())
    sized = engine(folder, bundle, trt)
    held = len(trt.cuda.blocks)
    inputs = rows(2)
    with monkeypatch.context() as patched:
        patched.setattr("backend.engines_fakes.FakeContext.execute_async_v3", lambda *_: False)
        for _ in range(2):
            with pytest.raises(InternalError, match="unet: TensorRT refused: enqueue"):
                sized.run(inputs, 2)
        assert len(trt.cuda.blocks) == held
    for _ in range(3):
        np.testing.assert_array_equal(sized.run(inputs, 2)["noise_pred"], expected(inputs))


def test_an_array_that_nobody_may_write_to_crosses_once(folder: Path, bundle: Bundle) -> None:
    """Guards the embeddings' one way to the device, and everything that may change against staying behind."""
    cuda = FakeCuda()
    run = engine(folder, bundle, FakeTensorRT(cuda)).run
    inputs = rows(2)
    inputs["encoder_hidden_states"].setflags(write=False)
    run(inputs, 2)
    assert cuda.copies_in == 3
    for step in range(3):
        inputs["sample"][:] += 1  # in place: it may be written to, so it is sent
        inputs["timestep"] = inputs["timestep"] - step
        np.testing.assert_array_equal(run(inputs, 2)["noise_pred"], expected(inputs))
    assert cuda.copies_in == 3 + 3 * 2
    other = rows(2, seed=5)["encoder_hidden_states"]
    other.setflags(write=False)
    run({**inputs, "encoder_hidden_states": other}, 2)
    assert cuda.copies_in == 3 + 3 * 2 + 3


def test_a_streaming_engine_gets_its_budget_before_its_contexts(folder: Path, bundle: Bundle) -> None:
    """Guards the order: contexts are sized by what of the weights is on the device."""
    trt = FakeTensorRT(FakeCuda(), streamed=64 * 2**20)
    assert engine(folder, bundle, trt)._engine.weight_streaming_budget_v2 == 32 * 2**20  # TensorRT's own choice
    second = Path(folder.parent / "second")
    made = engine(second, open_bundle(write_bundle(second)), trt, weights_mib=16)
    assert made._engine.weight_streaming_budget_v2 == 16 * 2**20


def test_an_engine_with_other_ports_is_refused(folder: Path, bundle: Bundle) -> None:
    """Guards against answers in half precision taken for float32."""
    trt = FakeTensorRT(FakeCuda())
    trt.nptype = lambda kind: np.float16  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"unet: the engine's inputs are .*float16"):
        engine(folder, bundle, trt)


def fallback(network: str) -> Engine:
    def run(**inputs: Any) -> dict[str, Any]:
        return {"by": np.array([network])}

    return run


def load(folder: Path, bundle: Bundle, trt: FakeTensorRT | None = None, **settings: Any) -> EngineSet:
    trt = trt or FakeTensorRT(FakeCuda())
    return loading.load(
        Settings(engine="tensorrt", **settings),
        folder,
        bundle,
        trt=trt,
        device=Device(0, trt.cuda),
        load_other=fallback,
    )


def test_what_has_no_engine_is_refused_unless_it_may_fall_back(
    folder: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards both answers to a foreign engine: none by default, ONNX Runtime when it is allowed, and said."""
    write_engine(folder, bundle)
    write_engine(folder, bundle, "vae_decoder", gpu="NVIDIA L4")
    with pytest.raises(EngineError, match=r"text_encoder: no TensorRT engine was built.*--engine-fallback onnxruntime"):
        load(folder, bundle)
    with caplog.at_level(logging.WARNING):
        loaded = load(folder, bundle, engine_fallback="onnxruntime")
    assert loaded.names == {
        "text_encoder": "onnxruntime (cuda)",
        "unet": "tensorrt 11.4.0.106",
        "vae_encoder": "onnxruntime (cuda)",
        "vae_decoder": "onnxruntime (cuda)",
    }
    assert any("vae_decoder" in text and "built on NVIDIA L4" in text for text in loaded.warnings)
    assert all(text in caplog.text for text in loaded.warnings)
    assert loaded.engine("text_encoder")()["by"] == "text_encoder"
    inputs = rows(3)
    np.testing.assert_array_equal(loaded.engine("unet")(**inputs)["noise_pred"], expected(inputs))


def test_a_plan_that_tensorrt_refuses_falls_back_too(folder: Path, bundle: Bundle) -> None:
    """Guards what no header says: the deserialiser's own refusal."""
    trt = FakeTensorRT(FakeCuda())
    trt._deserialize = lambda plan: None  # type: ignore[method-assign]
    for network in bundle.networks:
        write_engine(folder, bundle, network)
    with pytest.raises(EngineError, match=r"text_encoder\.plan: TensorRT cannot deserialise it"):
        load(folder, bundle, trt)
    assert set(load(folder, bundle, trt, engine_fallback="onnxruntime").names.values()) == {"onnxruntime (cuda)"}


def test_a_foreign_plan_never_reaches_tensorrt(folder: Path, bundle: Bundle) -> None:
    """Guards the order of the checks: a plan is code."""
    trt = FakeTensorRT(FakeCuda())
    write_engine(folder, bundle, sha256="1" * 64)
    load(folder, bundle, trt, engine_fallback="onnxruntime")
    assert trt.deserialized == []


def test_a_size_without_a_profile_falls_back_by_its_shape_alone(
    folder: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards requests of odd sizes, and that the batch does not decide who computes them."""
    write_engine(folder, bundle)
    loaded = load(folder, bundle, engine_fallback="onnxruntime")
    with caplog.at_level(logging.WARNING):
        for count in (1, 3, 9):
            assert loaded.engine("unet")(**rows(count, 17))["by"] == "unet"
    assert caplog.text.count("ONNX Runtime runs this shape") == 1
    inputs = rows(9)
    np.testing.assert_array_equal(loaded.engine("unet")(**inputs)["noise_pred"], expected(inputs))


@pytest.mark.parametrize("flaw", ["", "place", "size"])
def test_a_row_alone_equals_the_row_in_every_batch(folder: Path, bundle: Bundle, flaw: str) -> None:
    """Guards the determinism contract over kernels that break it, sizes to choose from included."""
    write_engine(folder, bundle)
    trt = FakeTensorRT(FakeCuda(), flaw)
    loaded = load(folder, bundle, trt, engine_fallback="onnxruntime", batch_sizes="1,2,4")
    inputs = rows(6)
    together = loaded.engine("unet")(**inputs)["noise_pred"]
    for row in range(6):
        alone = loaded.engine("unet")(**{name: array[row : row + 1] for name, array in inputs.items()})["noise_pred"]
        np.testing.assert_array_equal(alone[0], together[row])


def test_no_tensorrt_and_no_gpu_are_said_or_fallen_back_from(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the server that is moved to a machine without either."""
    with pytest.raises(EngineError, match=r"no CUDA device can be used: .*driver version is insufficient"):
        Device(0, FakeCuda(error=35))
    with pytest.raises(EngineError, match="device: 1 is not there; this machine has 1"):
        Device(1, FakeCuda())

    def nothing() -> Any:
        raise EngineError("TensorRT is not installed (no module)")

    monkeypatch.setattr(loading, "_module", nothing)
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        loading.load(Settings(engine="tensorrt"), folder, bundle, load_other=fallback)
    allowed = Settings(engine="tensorrt", engine_fallback="onnxruntime")
    loaded = loading.load(allowed, folder, bundle, load_other=fallback)
    assert set(loaded.names.values()) == {"onnxruntime (cuda)"}
    assert "TensorRT cannot be used" in loaded.warnings[0]
