"""gesso-serve: several bundles, a clean stop, and refusing to start in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from e2e.conftest import Serve
from e2e.jobs import LONG, inpaint, long_job
from e2e.server import EVENT_SECONDS, POLL_SECONDS, Server, answers, free_ports, gesso_serve
from e2e.wire import Refused, infer_binary, infer_grpc, stream_grpc

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "ask_to_stop",
    [
        signal.SIGTERM,
        signal.SIGINT,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGQUIT, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_a_stop_lets_running_jobs_finish_and_leaves_nothing(
    serve: Serve, tiny_bundle: Path, ask_to_stop: signal.Signals
) -> None:
    job = inpaint(128, 128, **LONG)  # long enough to be seen beside another, short enough to be waited for
    with serve(tiny_bundle) as server, ThreadPoolExecutor(1) as pool:
        words = " ".join(server.processes().values()).split()
        scratch = [Path(word) for word in words if word.endswith("/model.py")]
        assert len(scratch) == 2
        events = stream_grpc(server.grpc, job)
        next(events)
        once = pool.submit(infer_grpc, server.grpc, job)
        server.until(lambda: server.metric("gesso_active_rows") == 4)
        server.process.send_signal(ask_to_stop)
        image = list(events)[-1]
        assert (image.event, image.step) == ("image", 200)
        np.testing.assert_array_equal(once.result(60).image, image.image)
        assert server.process.wait(60) == 0
        assert not server.processes()
        assert not server.shared_memory()
        assert not any(path.exists() for path in scratch)
        assert server.said().splitlines()[-1] == "gesso-serve: stopped"


def test_a_stop_does_not_wait_for_ever(serve: Serve, tiny_bundle: Path) -> None:
    """What runs longer than --drain-seconds, and what comes meanwhile, is told so: not cut off with a broken socket."""
    with serve(tiny_bundle, "--drain-seconds=4") as server:  # a busy machine needs a second for the request below
        events = stream_grpc(server.grpc, long_job(num_images_per_prompt=8))
        next(events)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: "running requests may finish" in server.said())
        server.until(lambda: _is_draining(server))
        with pytest.raises(Refused, match="UNAVAILABLE: the server is shutting down"):
            infer_grpc(server.grpc, inpaint())
        with pytest.raises(Refused, match="UNAVAILABLE: the server is shutting down"):
            list(events)
        assert server.process.wait(30) == 0
        assert time.monotonic() - started < 20
        assert not server.processes()
        assert not server.shared_memory()


def test_two_bundles_are_served_side_by_side(serve: Serve, tiny_bundle: Path, plain_bundle: Path) -> None:
    """A 9-channel and a 4-channel model: each answers under its own names, and they share nothing."""
    with serve(tiny_bundle, names={"second": plain_bundle}) as server:
        assert len(server.processes()) == 5
        first = infer_binary(server.http, inpaint())
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(infer_grpc, server.grpc, inpaint(), f"{stem}_once") for stem in ("inpaint", "second")]
            again, second = (call.result(60) for call in calls)
        np.testing.assert_array_equal(again.image, first.image)
        assert not np.array_equal(second.image, first.image)
        np.testing.assert_array_equal(list(stream_grpc(server.grpc, inpaint(), "second"))[-1].image, second.image)

        assert _described(server, "inpaint")["native_inpainting"] is True
        assert _described(server, "second")["native_inpainting"] is False
        for model, steps in (("inpaint", 8), ("second", 8)):
            assert server.metric("gesso_requests_total", model=model, outcome="ok") == 2
            assert server.metric("gesso_step_seconds_count", model=model) == steps


def test_serving_by_name_alone(serve: Serve, plain_bundle: Path) -> None:
    """BUNDLE itself is optional; the names are then all there is."""
    with serve(None, names={"plain": plain_bundle}) as server:
        assert sorted(server.stubs()) == ["plain", "plain_once"]
        assert infer_binary(server.http, inpaint(), "plain_once").event == "image"


# What is wrong: the arguments it makes of a whole bundle and a scratch folder, and words of the one line.
UNSTARTABLE: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "no bundle": (lambda bundle, scratch: [], "no BUNDLE given"),
    "no such folder": (lambda bundle, scratch: [str(scratch / "nowhere")], "nowhere"),
    "a folder that is no bundle": (lambda bundle, scratch: [str(scratch)], "bundle.json"),
    "a manifest cut short": (lambda bundle, scratch: [_cut(bundle, scratch, "bundle.json")], "bundle.json"),
    "an unknown key": (lambda bundle, scratch: [_with_key(bundle, scratch, "colour")], "colour"),
    "a missing file": (lambda bundle, scratch: [_without(bundle, scratch, "unet.onnx")], "unet.onnx"),
    "a network cut short": (lambda bundle, scratch: [_cut(bundle, scratch, "vae_decoder.onnx")], "vae_decoder.onnx"),
    "a network changed": (lambda bundle, scratch: [_flipped(bundle, scratch, "unet.onnx")], "unet.onnx"),
    "a bad name": (lambda bundle, scratch: [str(bundle), f"--name=a/b={bundle}"], "'a/b' is no model name"),
    "a name twice": (lambda bundle, scratch: [str(bundle), f"--name=inpaint={bundle}"], "'inpaint' is given twice"),
    "a name without a bundle": (lambda bundle, scratch: [str(bundle), "--name=second"], "NAME=BUNDLE"),
    "a setting out of range": (lambda bundle, scratch: [str(bundle), "--max-rows=-1"], "max_rows"),
    "a loop nobody knows": (lambda bundle, scratch: [str(bundle), "--loop=endless"], "'endless'"),
    "an address of another machine": (lambda bundle, scratch: [str(bundle), "--host=192.0.2.1"], "192.0.2.1"),
}


@pytest.mark.parametrize("what", UNSTARTABLE)
def test_what_cannot_be_served_is_one_line_and_status_2(tiny_bundle: Path, tmp_path: Path, what: str) -> None:
    arguments, words = UNSTARTABLE[what]
    assert words in _refusal(tmp_path / "log", *arguments(tiny_bundle, tmp_path))


@pytest.mark.parametrize("kind", ["http", "grpc", "metrics"])
def test_a_taken_port_is_named_with_the_option_that_changes_it(tiny_bundle: Path, tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = _refusal(tmp_path / "log", str(tiny_bundle), f"--{kind}-port={port}")
    assert f"127.0.0.1:{port} cannot be bound" in line
    assert f"set --{kind}-port" in line


@pytest.mark.parametrize("host", ["::1", "::"])
def test_of_two_started_at_once_on_ipv6_one_serves_and_one_is_told_so(
    tiny_bundle: Path, tmp_path: Path, host: str
) -> None:
    """Guards IPv6, which never got ready, and two starts before either's Triton has the ports (systems#141)."""
    http, grpc, metrics = free_ports(3)
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    logs = [tmp_path / name / "log" for name in ("one", "two")]
    for log in logs:
        log.parent.mkdir()
    servers = [Server(log, tiny_bundle, f"--host={host}", "--drain-seconds=0", *ports) for log in logs]
    try:
        deadline = time.monotonic() + EVENT_SECONDS
        while not any("gesso-serve: ready: " in server.said() for server in servers):
            assert time.monotonic() < deadline, [server.tail() for server in servers]
            time.sleep(POLL_SECONDS)
        serves, refused = sorted(servers, key=lambda server: "gesso-serve: ready: " not in server.said())
        assert refused.process.wait(EVENT_SECONDS) == 2
        (line,) = refused.said().splitlines()
        assert line.endswith(f"[{host}]:{http} is another gesso-serve's; set --http-port") or f":{http} " in line
        assert answers(f"http://[::1]:{http}/v2/models/inpaint/ready")
        with pytest.raises(Refused, match="prompt: missing"):
            infer_grpc(f"[::1]:{grpc}", {"seed": np.array([1], np.int64)})
        assert serves.stop() == 0
    finally:
        for server in servers:
            server.kill()


def test_a_model_that_cannot_be_loaded_is_one_line_and_status_2(tiny_bundle: Path, tmp_path: Path) -> None:
    """The manifest is right and the network of no use: only the model finds out. Five restarts could not mend it."""
    bundle = _copied(tiny_bundle, tmp_path)
    network = onnx.load(bundle / "vae_decoder.onnx", load_external_data=False)
    network.graph.node[0].op_type = "NoSuchOperator"
    (bundle / "vae_decoder.onnx").write_bytes(network.SerializeToString())
    _resigned(bundle, "vae_decoder.onnx")
    line = _refusal(tmp_path / "log", str(bundle), "--profile-seconds=0")
    assert "inpaint cannot be loaded: BundleError: vae_decoder.onnx: ONNX Runtime cannot load it" in line


def test_of_two_servers_on_one_port_the_second_says_so_and_ends(tiny_bundle: Path, tmp_path: Path) -> None:
    """Guards systems#141: the second found the ports free, said "ready" five times with the first's answers, and gave
    up. Here one takes them after that look, when Triton has begun."""
    server = Server(tmp_path / "log", tiny_bundle)
    try:
        server.until(lambda: bool(server.processes()))
        host, port = server.http.split(":")
        with socket.socket() as quicker:
            quicker.bind((host, int(port)))
            assert server.process.wait(60) == 2, server.tail()
        (line,) = server.said().splitlines()
        assert line == f"gesso-serve: error: {server.http} is already in use; set --http-port"
        assert not server.processes()
    finally:
        server.kill()


def test_only_writing_the_repository(tiny_bundle: Path, plain_bundle: Path, tmp_path: Path) -> None:
    """For those who run Triton themselves, in a container."""
    target = tmp_path / "models"
    options = [f"--name=second={plain_bundle}", f"--repository={target}", "--max-rows=4"]
    subprocess.run([*gesso_serve(), str(tiny_bundle), *options], check=True, timeout=60)
    assert sorted(path.name for path in target.iterdir()) == ["inpaint", "inpaint_once", "second", "second_once"]
    config = (target / "inpaint" / "config.pbtxt").read_text()
    assert str(tiny_bundle.resolve()) not in config
    assert (target / "inpaint" / "1" / "bundle").samefile(tiny_bundle)
    assert '"max_rows" value { string_value: "4" }' in config
    assert '"target" value { string_value: "second" }' in (target / "second_once" / "config.pbtxt").read_text()


def _is_draining(server: Server) -> bool:
    """Whether the models have seen that they are to drain: one that drains refuses a bad request before it reads it."""
    with pytest.raises(Refused) as refused:
        infer_grpc(server.grpc, inpaint(num_inference_steps=0))
    return "UNAVAILABLE: the server is shutting down" in refused.value.message


def _refusal(log: Path, *arguments: str) -> str:
    """The one line of a gesso-serve that does not start."""
    server = Server(log, None, *arguments)
    try:
        assert server.process.wait(60) == 2, server.tail()
    finally:
        server.kill()
    lines = server.said().splitlines()
    assert len(lines) == 1, server.tail()
    assert lines[0].startswith("gesso-serve: error: ")
    return lines[0]


def _copied(bundle: Path, scratch: Path) -> Path:
    return Path(shutil.copytree(bundle, scratch / "bundle"))


def _without(bundle: Path, scratch: Path, name: str) -> str:
    copy = _copied(bundle, scratch)
    (copy / name).unlink()
    return str(copy)


def _cut(bundle: Path, scratch: Path, name: str) -> str:
    copy = _copied(bundle, scratch)
    (copy / name).write_bytes((copy / name).read_bytes()[:-100])
    return str(copy)


def _flipped(bundle: Path, scratch: Path, name: str) -> str:
    """One bit is wrong; only the hash can tell."""
    copy = _copied(bundle, scratch)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    return str(copy)


def _with_key(bundle: Path, scratch: Path, key: str) -> str:
    copy = _copied(bundle, scratch)
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**manifest, key: 1}))
    return str(copy)


def _resigned(bundle: Path, name: str) -> None:
    """Put the file's true hash and size in the manifest."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    content = (bundle / name).read_bytes()
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def _described(server: Server, model: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{server.http}/v2/models/{model}/config", timeout=30) as answer:
        return dict(json.loads(json.loads(answer.read())["parameters"]["gesso"]["string_value"]))
