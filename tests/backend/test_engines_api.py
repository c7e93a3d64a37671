"""What the engines use of TensorRT and CUDA, against the real classes, which `make test-slow` installs.

Neither needs a GPU to be imported. The names in the protocols are all that the code may use: mypy holds it to them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from backend.engines_fakes import FakeContext, FakeCuda, FakeEngine, FakeTensorRT
from gesso_backend.engines.tensorrt import cuda_api, tensorrt_api

REAL = ("tensorrt", "tensorrt_bindings", "tensorrt_lean")
CLASSES = {
    tensorrt_api.Context: "IExecutionContext",
    tensorrt_api.CudaEngine: "ICudaEngine",
    tensorrt_api.Runtime: "Runtime",
}


def members(protocol: type) -> dict[str, Any]:
    """Methods with their parameters' names, attributes with None."""
    methods = {n: list(inspect.signature(f).parameters)[1:] for n, f in vars(protocol).items() if inspect.isfunction(f)}
    methods = {name: names for name, names in methods.items() if not name.startswith("_")}
    return {**dict.fromkeys(protocol.__annotations__), **methods}


def tensorrt() -> Any:
    for name in REAL:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(f"none of {', '.join(REAL)} is installed")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", CLASSES, ids=lambda protocol: protocol.__name__)
def test_tensorrts_classes_have_what_is_used_of_them(protocol: type) -> None:
    """Guards against an API that was remembered wrongly, or that a release takes away."""
    real = getattr(tensorrt(), CLASSES[protocol])
    assert members(protocol)
    for name, parameters in members(protocol).items():
        assert hasattr(real, name), f"{real.__name__} has no {name}"
        if parameters is not None:
            documented = re.findall(rf"{name}\(self: [^,)]*(?:, ([^)]*))?\)", getattr(real, name).__doc__)
            takes = [re.findall(r"(\w+): ", overload) for overload in documented]
            assert any(found[: len(parameters)] == parameters for found in takes), (name, parameters, takes)


@pytest.mark.slow
def test_tensorrts_module_has_what_is_used_of_it() -> None:
    """Guards enums and functions the same way."""
    module = tensorrt()
    for name in members(tensorrt_api.TensorRT):
        assert hasattr(module, name), f"tensorrt has no {name}"
    assert {"INPUT", "OUTPUT"} <= set(module.TensorIOMode.__members__)
    assert "USER_MANAGED" in module.ExecutionContextAllocationStrategy.__members__
    assert (
        module.nptype(module.DataType.FLOAT) == "float32" or module.nptype(module.DataType.FLOAT).__name__ == "float32"
    )
    module.Logger(module.Logger.WARNING)


@pytest.mark.slow
def test_cudas_runtime_has_what_is_used_of_it() -> None:
    """Guards function names and the order of their arguments."""
    runtime = importlib.import_module("cuda.bindings.runtime")
    for name, parameters in members(cuda_api.CudaRuntime).items():
        assert hasattr(runtime, name), f"cuda.bindings.runtime has no {name}"
        if parameters is not None:
            line = getattr(runtime, name).__doc__.splitlines()[0]
            found = re.findall(r"(\w+)(?:: \w+)?(?=[,)])", line.partition("(")[2])
            assert len(found) == len(parameters), (line, parameters)
            assert [p.lower() for p in parameters] == [f.lower() for f in found], (line, parameters)
    assert {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"} <= set(runtime.cudaMemcpyKind.__members__)
    assert "cudaStreamCaptureModeThreadLocal" in runtime.cudaStreamCaptureMode.__members__
    assert int(runtime.cudaStream_t(7)) == 7  # as TensorRT is given it


@pytest.mark.parametrize(
    ("fake", "protocol"),
    [
        (FakeContext, tensorrt_api.Context),
        (FakeEngine, tensorrt_api.CudaEngine),
        (FakeTensorRT, tensorrt_api.TensorRT),
        (FakeCuda, cuda_api.CudaRuntime),
    ],
)
def test_the_fakes_of_these_tests_have_no_more_and_no_less(fake: type, protocol: type) -> None:
    """Guards against fakes that know a method which TensorRT does not."""
    source = ast.parse(Path(inspect.getfile(fake)).read_text())
    (body,) = (node.body for node in source.body if isinstance(node, ast.ClassDef) and node.name == fake.__name__)
    methods = {node.name: [a.arg for a in node.args.args][1:] for node in body if isinstance(node, ast.FunctionDef)}
    real = {name: names for name, names in members(protocol).items() if names is not None}
    for name, names in real.items():
        if name in methods:
            assert len(names) == len(methods[name]), name
    public = {name for name in methods if not name.startswith("_") and (name in real or name.startswith("cuda"))}
    assert public == set(real)
