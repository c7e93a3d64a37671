"""What these tests need: a GPU, an ONNX Runtime that can use it, and for most of them TensorRT. Without, they skip.

A skip is no pass: `make test-gpu` is to be run where all three are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import bundles
from backend.real import Real
from gesso_backend.engines.engine import EngineError
from gesso_backend.engines.tensorrt.device import Device, cuda_runtime


@pytest.fixture(scope="session")
def device() -> Device:
    try:
        return Device(0, cuda_runtime())
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cuda(device: Device) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")


@pytest.fixture(scope="session")
def tensorrt(cuda: None) -> None:
    pytest.importorskip("tensorrt")
    pytest.importorskip("polygraphy")


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def real(cuda: None, request: pytest.FixtureRequest, fresh_bundles: Path) -> Real:
    """The tiny model, and its networks on ONNX Runtime on the CPU, with which all is compared."""
    return Real.open(bundles.export(fresh_bundles, precision=request.param)[1])


@pytest.fixture(scope="session")
def built(tensorrt: None, real: Real) -> Path:
    """The same with TensorRT engines for sizes up to 128 px and up to eight rows, built and verified by the command."""
    from gesso_export.tensorrt import command

    command.main([str(real.folder), "--gpu", "auto", "--profile", "small=1x32x32,8x64x64,8x128x128"])
    return real.folder
