"""No process of ours tells anybody about itself.

Guards against what microsoft/onnxruntime#27379 brought: ONNX Runtime looks up a host of its maker's, queues events and
writes an id of the device into the user's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper
port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", port[:1], port[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {"x": np.ones(1, np.float32)})[0] == -1
"""


def written(home: Path, program: str) -> list[str]:
    """The files that a program leaves in its user's home, in an environment that says nothing of telemetry."""
    home.mkdir()
    quiet = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "HF_HUB_DISABLE_TELEMETRY", "CI")
    env = {name: value for name, value in os.environ.items() if name not in quiet and not name.startswith("XDG_")}
    env = {name: value for name, value in env.items() if not name.startswith(("PYTEST", "GITHUB"))}
    subprocess.run([sys.executable, "-c", program], env={**env, "HOME": str(home)}, check=True)
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("package", ["gesso_backend", "gesso_export"])
def test_networks_run_and_nothing_is_left_in_the_users_home(package: str, tmp_path: Path) -> None:
    assert written(tmp_path / "home", f"import {package}{RUN}") == []


def test_without_us_there_would_be_something(tmp_path: Path) -> None:
    """Guards the test above, which proves nothing about an ONNX Runtime that is quiet by itself."""
    assert any("onnxruntime" in file for file in written(tmp_path / "home", RUN))


def test_what_gesso_serve_starts_inherits_it() -> None:
    """Guards Triton's own ONNX Runtime backend, and the models' processes, which import ours first anyway."""
    program = "import gesso_backend.host.serve, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "1\n"
