"""gesso-serve's command line, as far as it goes without a Triton."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.fakes import write_bundle
from gesso_backend.host import repository, serve, signals, tritonserver
from gesso_backend.host.command import triton_command
from gesso_backend.host.listening import Ports
from gesso_backend.host.scratch import Scratch
from gesso_backend.host.supervisor import Supervisor
from gesso_backend.host.tritonserver import TritonServer
from gesso_backend.settings import RULES, Settings

OPTIONS = [name for name, rule in RULES.items() if rule.help]

ANY_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line it says, and status 2."""
    assert serve.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("gesso-serve: error: ")


def test_only_the_repository_is_written_when_that_is_asked_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards --repository, for those who start Triton themselves."""
    assert serve.main([str(bundle), "--repository", str(tmp_path / "models"), "--max-rows", "3"]) == 0
    assert capsys.readouterr().out == f"wrote inpaint, inpaint_once to {tmp_path / 'models'}\n"
    assert 'key: "max_rows" value { string_value: "3" }' in (tmp_path / "models/inpaint/config.pbtxt").read_text()


def test_what_is_wrong_is_one_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against tracebacks for an operator's slips."""
    models = ("--repository", tmp_path / "models")
    assert refused(capsys, *models) == "no BUNDLE given; see gesso-serve --help"
    assert refused(capsys, tmp_path, *models) == f"{tmp_path} is not a bundle: it has no bundle.json"
    assert refused(capsys, "--name", "portrait", *models) == "--name: 'portrait' is not NAME=BUNDLE"
    assert refused(capsys, "--name", f"a={bundle}", "--name", f"a={bundle}", *models) == "--name: 'a' is given twice"
    assert refused(capsys, bundle, "--name", f"inpaint={bundle}", *models) == "--name: 'inpaint' is given twice"
    assert refused(capsys, bundle, "--max-rows", -1, *models) == "max_rows: -1 is below the minimum 0"
    (tmp_path / "models" / "inpaint").mkdir(parents=True)
    assert refused(capsys, bundle, *models) == f"File exists: {tmp_path / 'models' / 'inpaint'}"


def test_every_setting_that_is_not_gesso_serves_own_is_an_option() -> None:
    """Guards against a setting that can only be set by editing config.pbtxt."""
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(Settings)} - {"bundle", "control", "verified"}
    options = serve._parser().parse_args(["b"])
    assert {name: getattr(options, name) for name in OPTIONS} == {name: getattr(Settings, name) for name in OPTIONS}


def test_a_taken_port_names_the_option_that_moves_it(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the second server on a machine, told before Triton has loaded anything."""
    monkeypatch.setattr(tritonserver, "find", lambda: TritonServer(Path("/t"), Path("/b"), None))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(capsys, bundle, "--http-port", 0, "--grpc-port", port)
    assert message == f"127.0.0.1:{port} cannot be bound (Address already in use); set --grpc-port"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_stop_while_it_prepares_leaves_nothing(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """Guards a start that hashes a large bundle: SIGTERM left its folder, a hang-up too, and Ctrl-C a traceback."""
    before = [signal.getsignal(each) for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tritonserver, "find", lambda: TritonServer(Path("/t"), Path("/b"), None))
    monkeypatch.setattr(repository, "write", lambda *_: signal.raise_signal(number))
    assert serve.main([str(bundle), *ANY_PORTS]) == 0
    assert capsys.readouterr().err == "gesso-serve: stopped before Triton was started\n"
    assert not list(tmp_path.glob("gesso-serve-*"))
    assert before == [signal.getsignal(each) for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)]


def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `nohup gesso-serve`, which a terminal that hangs up must not end."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled_by(signals.interrupt):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_is_named(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against "error: None", which is what a copy of several files has to say when the disk is full."""
    reasons = [("a", "b", f"[Errno 28] No space left on device: '{tmp_path}/model.py'"), ("c", "d", "another")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copytree", _raises(shutil.Error(reasons)))
        line = refused(capsys, bundle, "--repository", tmp_path / "models")
    assert line == f"[Errno 28] No space left on device: '{tmp_path}/model.py'"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copytree", _raises(OSError(28, "No space left on device")))
        assert refused(capsys, bundle, "--repository", tmp_path / "more") == "No space left on device"


def _raises(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_triton_is_started_closed_and_on_loopback(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the flags that keep strangers from loading models, and the whole network from reaching it."""
    started: list[dict[str, Any]] = []

    def remember(self: Supervisor) -> int:
        flags = [argument.partition("=") for argument in self._command[1:]]
        models = sorted(path.name for path in self._repository.iterdir())
        started.append({"models": models, "repository": str(self._repository), **{k: v for k, _, v in flags}})
        return 0

    monkeypatch.setattr(tritonserver, "find", lambda: TritonServer(Path("/t"), Path("/b"), None))
    monkeypatch.setattr(Supervisor, "run", remember)
    assert serve.main([str(bundle), "--name", f"other={bundle}", *ANY_PORTS]) == 0
    (flags,) = started
    assert flags["models"] == ["inpaint", "inpaint_once", "other", "other_once"]
    assert flags["--model-repository"] == flags["repository"]
    assert flags["--model-control-mode"] == "none"
    assert flags["--grpc-infer-allocation-pool-size"] == "0"  # each kept request keeps its pictures
    assert flags["--id"].removeprefix("gesso-") not in flags["--backend-config"]  # it is told to everybody
    assert "--disable-auto-complete-config" in flags
    assert {flags[f"--{port}-address"] for port in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    assert not Path(flags["repository"]).exists()  # nothing is left behind


def test_installing_is_all_that_install_triton_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Guards `make setup`, which has no bundle yet."""
    (tmp_path / "complete").touch()
    monkeypatch.setenv("GESSO_TRITON", str(tmp_path))
    assert serve.main(["--install-triton"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"is in {tmp_path}")


def test_triton_is_closed_to_all_but_inference_with_keys_that_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards pictures in shared memory against other clients (CVE-2025-23319, 23320, 23334), also against those who
    read the command line: HTTP has no line feed in a value, gRPC no space in a name.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Scratch() as scratch:
        commands = [triton_command(Path("t"), Path("b"), scratch, "::1", Ports(), Settings()) for _ in range(2)]
    keys = set()
    for command in commands:
        assert "--http-address=ipv6:::1" in command
        assert "--grpc-address=[::1]" in command
        for flag in ("--http-restricted-api=", "--grpc-restricted-protocol="):
            (value,) = [argument.removeprefix(flag) for argument in command if argument.startswith(flag)]
            closed, _, pair = value.partition(":")
            name, _, key = pair.partition("=")
            assert set(closed.split(",")) == {"shared-memory", "model-repository", "logging", "trace"}
            assert " " in name
            assert "\n" in key.strip()
            keys.add(key)
    assert len(keys) == 4


def test_an_option_out_of_range_is_one_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against numbers that only Triton's Python finds too large, five restarts later."""
    models = ("--repository", tmp_path / "models")
    for option in OPTIONS:
        if RULES[option].minimum is not None:
            line = refused(capsys, bundle, f"--{option.replace('_', '-')}", 10**12, *models)
            assert line.startswith(f"{option}: ")
            assert "above the maximum" in line
    for value, words in (("inf", "above the maximum"), ("nan", "below the minimum")):
        assert words in refused(capsys, bundle, "--stall-seconds", value, *models)
