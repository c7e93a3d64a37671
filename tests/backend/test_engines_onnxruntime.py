"""ONNX Runtime's GPU path, as far as a machine without a GPU can run it: IO binding on the CPU, and every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from backend.fakes import fake_bundle, write_bundle
from backend.real import Real
from backend.test_engine import rows_of
from gesso_backend.engines import onnxruntime_gpu
from gesso_backend.engines.engine import EngineError, load
from gesso_backend.engines.onnxruntime import OnnxRuntimeEngine
from gesso_backend.engines.onnxruntime_gpu import MOST_SHAPES, IoBindingEngine
from gesso_backend.engines.padding import PaddedEngine
from gesso_backend.kinds import open_bundle
from gesso_backend.settings import Settings

CPU: Any = ([("CPUExecutionProvider", {})], ("cpu", 0))


@pytest.mark.parametrize("network", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_bound_and_padded_it_answers_what_the_plain_engine_answers(plain: Real, network: str) -> None:
    """Guards the binding: shapes that take turns, rows that are padded, values that are sent again."""
    spec = plain.bundle.networks[network]
    bound = PaddedEngine(network, IoBindingEngine(plain.folder / spec.file, *CPU), [2, 5])
    reference = OnnxRuntimeEngine(plain.folder / spec.file)
    for height, width, count in ((4, 6, 1), (8, 8, 3), (4, 6, 5), (4, 6, 7)):
        inputs = {name: array[:count] for name, array in rows_of(network, spec, 8, height, width).items()}
        found, expected = bound(**inputs), reference(**inputs)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


def test_inputs_of_forgotten_shapes_are_given_back(plain: Real) -> None:
    """Guards device memory against clients that send every size there is."""
    spec = plain.bundle.networks["vae_decoder"]
    engine = IoBindingEngine(plain.folder / spec.file, *CPU)
    for side in range(1, MOST_SHAPES + 4):
        engine.run({"latents": np.zeros((1, 4, 1, side), np.float32)}, 1)
    assert len(engine._values) == MOST_SHAPES


def test_a_provider_that_is_not_there_is_an_error_and_no_silent_cpu(plain: Real) -> None:
    """Guards against a 'GPU server' that runs on the CPU, which is what ONNX Runtime makes of it."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for providers in ("cuda", "tensorrt,cuda"):
        with pytest.raises(EngineError, match=r"this onnxruntime has no (CUDA|Tensorrt)ExecutionProvider"):
            load(Settings(providers=providers), plain.folder, plain.bundle)


def test_a_provider_that_fails_to_start_is_an_error(plain: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the same where the package has CUDA and the machine has not."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    path = plain.folder / plain.bundle.networks["vae_decoder"].file
    cpu_only = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, **_: cpu_only(*a, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(EngineError, match="ONNX Runtime cannot use CUDAExecutionProvider here"):
        IoBindingEngine(path, [("CUDAExecutionProvider", {}), ("CPUExecutionProvider", {})], ("cuda", 0))


def test_the_cpu_stays_the_engine_it_was(plain: Real) -> None:
    """Guards the default: nothing of the GPU's way, no padding, no binding."""
    loaded = load(Settings(), plain.folder, plain.bundle)
    assert {type(engine) for engine in loaded.engines.values()} == {OnnxRuntimeEngine}
    assert set(loaded.names.values()) == {"onnxruntime (cpu)"}


def test_cuda_options_choose_kernels_by_rule() -> None:
    """Guards bytes across restarts: an algorithm search by stopwatch may end otherwise each time."""
    options = onnxruntime_gpu._options("cuda", Settings(device=1), fake_bundle(), "unet")
    assert options["device_id"] == 1
    assert options["cudnn_conv_algo_search"] != "EXHAUSTIVE"
    assert options["use_tf32"] == 0


def test_shapes_of_the_tensorrt_provider_cover_the_bundles_sizes() -> None:
    """Guards against an engine that is built again for every new size."""
    bundle = fake_bundle()
    low, best, high = onnxruntime_gpu._shapes(Settings(max_rows=4), bundle, "unet")
    assert low == "sample:1x9x8x8,timestep:1,encoder_hidden_states:1x8x4"
    assert best == "sample:4x9x8x8,timestep:4,encoder_hidden_states:4x8x4"
    assert high == "sample:4x9x16x16,timestep:4,encoder_hidden_states:4x64x4"
    assert onnxruntime_gpu._shapes(Settings(), bundle, "vae_encoder")[2] == "sample:1x3x128x128"


def test_a_kept_context_is_opened_instead_of_the_network(tmp_path: Path) -> None:
    """Guards the second start, which is to take seconds; and what was built of other weights."""
    folder = write_bundle(tmp_path)
    bundle = open_bundle(folder)
    path, config = onnxruntime_gpu._context(Settings(), folder, bundle, "unet")
    assert path == folder / "unet.onnx"
    kept = Path(config["ep.context_file_path"])
    kept.write_bytes(b"")
    assert onnxruntime_gpu._context(Settings(), folder, bundle, "unet") == (kept, {})
    for changed in (Settings(max_rows=4), Settings(device=1)):
        assert onnxruntime_gpu._context(changed, folder, bundle, "unet")[0] == folder / "unet.onnx"
