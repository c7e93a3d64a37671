"""No process of gesso, nor of what it depends on, opens a connection that nobody asked for.

Guards against what microsoft/onnxruntime#27379 brought, whichever dependency brings it next: every connect and send of
every process is traced, and all that is left in the user's home is listed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import bundles
from gesso_backend.host import tritonserver
from quiet import trace

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]

# Serves a bundle on the loopback and asks it for a picture by both transports, by address and by name.
SERVED = """
import sys
import numpy as np
from pathlib import Path
from e2e.server import Server
from gesso_client import Client
log, bundle, engine = sys.argv[1:]
server = Server(Path(log), Path(bundle), f"--engine={engine}", "--max-rows=8")
if engine == "triton":
    server.models += [f"inpaint_{name}" for name in ("text_encoder", "unet", "vae_encoder", "vae_decoder")]
try:
    server.wait_ready()
    image, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    for url in (server.grpc, f"http://{server.http}", server.grpc.replace("127.0.0.1", "localhost")):
        with Client(url) as client:
            client.inpaint(image, mask, "a tree", num_inference_steps=2)
    sys.exit(server.stop())
finally:
    server.kill()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    """An environment that says nothing of telemetry, with a home of its own."""
    quiet = ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "CI")
    kept = {name: value for name, value in os.environ.items() if name not in quiet and not name.startswith("XDG_")}
    kept = {name: value for name, value in kept.items() if not name.startswith(("PYTEST", "GITHUB", "HF_"))}
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    return {**kept, "HOME": str(home), "GESSO_TRITON": str(tritonserver.cache_folder()), "PYTHONPATH": paths}


def left(home: Path) -> list[str]:
    """The files in it."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir())


def check(traced: trace.Traced) -> None:
    assert traced.status == 0, traced.output
    assert not traced.outside


@pytest.mark.parametrize(
    "statement",
    [
        "s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('192.0.2.1', 443))",  # of documentation; nothing is sent
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.connect(('2001:db8::1', 443))",
        "s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', 53))",
    ],
)
def test_what_leaves_the_machine_is_seen_whoever_does_it(statement: str, env: dict[str, str]) -> None:
    """Guards the tests below, which would pass if nothing were traced."""
    child = f"import contextlib, socket\nwith contextlib.suppress(OSError):\n {statement}"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert len(trace.run([sys.executable, "-c", parent], env).outside) == 1


def test_an_export_connects_to_nobody(tmp_path: Path, home: Path, gesso_bundles: Path, env: dict[str, str]) -> None:
    checkpoint = bundles.checkpoint(gesso_bundles, **bundles.MICRO)
    traced = trace.run([str(BIN / "gesso-export"), str(checkpoint), "--out", str(tmp_path / "bundle")], env)
    check(traced)
    assert not traced.reached
    assert not left(home)


@pytest.mark.parametrize("engine", ["onnxruntime", "triton"])
def test_a_server_and_its_clients_stay_on_the_loopback(
    engine: str, tmp_path: Path, home: Path, gesso_bundles: Path, env: dict[str, str]
) -> None:
    """TensorRT's engine is not here: its libraries are no part of `make setup`."""
    log = tmp_path / "log"
    bundle = bundles.export(gesso_bundles)[1]
    traced = trace.run([sys.executable, "-c", SERVED, str(log), str(bundle), engine], env)
    check(traced)
    assert traced.reached
    assert all(file.startswith(".cache/gesso/profiles/") for file in left(home))


def test_the_demo_stays_on_the_loopback(tmp_path: Path, home: Path, env: dict[str, str]) -> None:
    demo = [sys.executable, str(ROOT / "examples" / "demo.py"), "--steps=2", "--out", str(tmp_path / "demo")]
    check(trace.run([*demo, "--bundle", str(ROOT / "bundles" / "little-world")], env))
    assert all(file.startswith(".cache/gesso/profiles/") for file in left(home))


def test_the_quick_tests_stay_on_the_loopback(env: dict[str, str]) -> None:
    """But those of what stops a process: one that is traced is stopped in another way."""
    stops = f"--ignore={ROOT / 'tests' / 'backend' / 'test_supervisor.py'}"
    check(trace.run([sys.executable, "-m", "pytest", "--quick", "-q", "-p", "no:cacheprovider", stops, str(ROOT)], env))
