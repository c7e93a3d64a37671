"""Finding Triton, getting it, and the environment of its stub: each missing piece is one line that says what to do."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gesso_backend.errors import ServeError
from gesso_backend.host import preflight, tritonserver
from gesso_backend.host.preflight import LIBPYTHON, PYTHON
from gesso_backend.host.tritonserver import TritonServer


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Triton, whatever the one that runs this has."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GESSO_TRITON", str(tmp_path / "cache"))
    monkeypatch.setattr(tritonserver, "INSTALLED", tmp_path / "opt")


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)
    return path


def from_pypi(cache: Path) -> Path:
    """What pip leaves in the cache folder, as far as it is looked at; returns the server's folder."""
    root = cache / "pytriton" / "tritonserver"
    executable(root / "bin" / "tritonserver")
    executable(root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub")
    executable(root / "backends" / "python" / "libtriton_python.so")
    executable(root / "backends" / "python" / "triton_python_backend_utils.py")
    (cache / "complete").touch()
    return root


def installed_at(root: Path) -> Path:
    """An installed server, as far as it is looked at; returns its binary."""
    executable(root / "backends" / "python" / "triton_python_backend_stub")
    executable(root / "backends" / "python" / "libtriton_python.so")
    return executable(root / "bin" / "tritonserver")


def fails(action: Any, *arguments: Any) -> str:
    with pytest.raises(ServeError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Finding


def test_one_on_the_path_comes_first_then_the_images_then_pypis(tmp_path: Path) -> None:
    """Guards the order: a production image must never run the laptop's release."""
    root = from_pypi(tmp_path / "cache")
    stub = root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    assert tritonserver.find() == TritonServer(root / "bin" / "tritonserver", root / "backends", stub)
    assert tritonserver.find().from_pypi
    installed = installed_at(tmp_path / "opt")
    assert tritonserver.find() == TritonServer(installed, tmp_path / "opt" / "backends", None)
    real = installed_at(tmp_path / "own")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").symlink_to(real)
    assert tritonserver.find() == TritonServer(real, tmp_path / "own" / "backends", None)
    assert not tritonserver.find().from_pypi


def test_none_at_all_says_how_to_get_one() -> None:
    """Guards the first thing a newcomer may see."""
    assert fails(tritonserver.find) == (
        "no tritonserver found; run `gesso-serve --install-triton` to get the one on PyPI"
    )


def test_a_half_finished_installation_is_none(tmp_path: Path) -> None:
    """Guards an interrupted pip: only what was finished is used."""
    from_pypi(tmp_path / "cache")
    (tmp_path / "cache" / "complete").unlink()
    assert "no tritonserver found" in fails(tritonserver.find)


def test_a_python_without_a_stub_is_told_which_have_one(tmp_path: Path) -> None:
    """Guards Python 3.14, for which this release has none."""
    root = from_pypi(tmp_path / "cache")
    shutil.rmtree(root / "python_backend_stubs" / PYTHON)
    message = fails(tritonserver.find)
    assert message.endswith(f"has no stub for Python {PYTHON}; use Python 3.11 or 3.12")


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards the three places, in their order."""
    assert tritonserver.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GESSO_TRITON")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tritonserver.cache_folder() == tmp_path / "xdg" / "gesso" / f"tritonserver-{tritonserver.VERSION}"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert tritonserver.cache_folder().is_relative_to(Path.home() / ".cache" / "gesso")


# Installing


class FakePip:
    """Stands in for subprocess.run."""

    def __init__(self, returncode: int = 0, stderr: str = "") -> None:
        self.commands: list[list[str]] = []
        self._done = types.SimpleNamespace(returncode=returncode, stderr=stderr)

    def __call__(self, command: list[str], **_: Any) -> Any:
        self.commands.append(command)
        return self._done


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """A machine on which it would work."""
    pip = FakePip()
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return pip


def test_it_is_installed_once(able: FakePip, tmp_path: Path) -> None:
    """Guards the quick second run of every make target; and the pinned version."""
    assert tritonserver.install() == tritonserver.install() == tmp_path / "cache"
    (command,) = able.commands
    assert command[-3:] == ["--target", str(tmp_path / "cache"), tritonserver.PACKAGE]
    assert "--no-deps" in command
    assert command[0] == sys.executable


@pytest.mark.parametrize(
    ("libc", "machine", "found"),
    [
        (("glibc", "2.31"), "x86_64", "x86_64 with glibc 2.31"),
        (("glibc", "2.36"), "aarch64", "aarch64 with glibc 2.36"),
        (("", ""), "x86_64", "x86_64 with no glibc"),
        (("musl", "1.2"), "x86_64", "x86_64 with musl 1.2"),
    ],
)
def test_a_system_it_was_not_built_for_is_told_so(
    able: FakePip, monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str], machine: str, found: str
) -> None:
    """Guards old distributions, ARM and Alpine against a download that ends in a loader error."""
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    message = fails(tritonserver.install)
    assert message.startswith("Triton from PyPI needs x86-64 Linux with glibc 2.35 or newer")
    assert message.endswith(f"this is {found}")
    assert able.commands == []


@pytest.mark.parametrize("version", ["2.35", "2.39", "3.0", "2.41.9000"])
def test_a_new_enough_glibc_will_do(able: FakePip, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Guards comparison by number: 2.9 is older than 2.35, and 2.100 is not."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", version))
    tritonserver.install()
    assert len(able.commands) == 1


def test_a_full_disk_is_told_before_anything_is_loaded(
    able: FakePip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against pip's traceback half-way; the folder itself need not exist yet."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=100 * 2**20))
    message = fails(tritonserver.install)
    assert message == f"{tmp_path} has 100 MiB free; {tritonserver.NEEDED_BYTES >> 20} MiB are needed"
    assert able.commands == []


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: retrying\nERROR: no matching distribution\n", "ERROR: no matching distribution"),
        ("", "no reason given"),
    ],
)
def test_pips_last_word_is_passed_on_and_nothing_counts_as_installed(
    able: FakePip, monkeypatch: pytest.MonkeyPatch, stderr: str, reason: str
) -> None:
    """Guards a machine without network: one line, and the next try starts afresh."""
    monkeypatch.setattr(subprocess, "run", FakePip(1, stderr))
    assert fails(tritonserver.install) == f"pip could not install {tritonserver.PACKAGE}: {reason}"
    assert "no tritonserver found" in fails(tritonserver.find)


# The backends and the environment


def test_the_stub_stands_beside_the_backends_library(tmp_path: Path) -> None:
    """Guards the one place where the backend looks for it, and the installed tree, which is shared."""
    root = from_pypi(tmp_path / "cache")
    before = sorted(root.rglob("*"))
    backends = tritonserver.backend_folder(tritonserver.find(), tmp_path / "scratch")
    found = {path.name: path.resolve() for path in (backends / "python").iterdir()}
    assert found == {
        "libtriton_python.so": root / "backends" / "python" / "libtriton_python.so",
        "triton_python_backend_utils.py": root / "backends" / "python" / "triton_python_backend_utils.py",
        "triton_python_backend_stub": root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub",
    }
    assert sorted(root.rglob("*")) == before


def test_an_installed_server_keeps_its_own_backends(tmp_path: Path) -> None:
    """Guards production images, whose tree is whole."""
    server = TritonServer(tmp_path / "bin" / "tritonserver", tmp_path / "backends", None)
    assert tritonserver.backend_folder(server, tmp_path / "scratch") == tmp_path / "backends"
    assert not (tmp_path / "scratch").exists()


@pytest.fixture
def pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TritonServer:
    """The PyPI server, on a Python with a shared library and numpy 1."""
    from_pypi(tmp_path / "cache")
    monkeypatch.setattr(tritonserver, "np", types.SimpleNamespace(__version__="1.26.4"))
    monkeypatch.setattr(preflight, "own_libpython", lambda: executable(tmp_path / LIBPYTHON))
    return tritonserver.find()


def test_the_stub_finds_this_python_and_its_library(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the two variables the stub lives by: the first python3 on PATH, and libpython alone in its folder."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    env = tritonserver.environment(pypi, tmp_path / "lib")
    assert env["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}{tmp_path / 'bin'}"
    assert env["LD_LIBRARY_PATH"] == f"{tmp_path / 'lib'}{os.pathsep}/elsewhere"
    assert [path.resolve() for path in (tmp_path / "lib").iterdir()] == [tmp_path / LIBPYTHON]
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert tritonserver.environment(pypi, tmp_path / "lib2")["LD_LIBRARY_PATH"] == str(tmp_path / "lib2")
    assert os.environ["PATH"] == str(tmp_path / "bin")  # ours is left as it was


def test_memory_is_given_back_unless_the_operator_says_otherwise(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a small machine: after a burst of large pictures Triton kept a gigabyte."""
    for name in tritonserver.MALLOC:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    env = tritonserver.environment(pypi, tmp_path / "lib")
    assert env["MALLOC_ARENA_MAX"] == "8"
    assert env["MALLOC_MMAP_THRESHOLD_"] == env["MALLOC_TRIM_THRESHOLD_"] == str(2**20)


def test_a_library_the_loader_finds_will_do(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards Debian's Python, which is linked statically and has the library in a package of its own."""
    monkeypatch.setattr(preflight, "own_libpython", lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    tritonserver.environment(pypi, tmp_path / "lib")
    assert list((tmp_path / "lib").iterdir()) == []


def test_a_missing_libpython_says_what_to_install(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the commonest trouble: without it the stub dies and Triton says nothing useful."""

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(preflight, "own_libpython", lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    message = fails(tritonserver.environment, pypi, tmp_path / "lib")
    assert message.startswith(f"{LIBPYTHON} is missing: on Debian or Ubuntu `apt install libpython{PYTHON}`")


def test_numpy_2_is_refused_for_the_old_stub_only(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against `output tensor shape does not match size of output` on every request."""
    monkeypatch.setattr(tritonserver, "np", types.SimpleNamespace(__version__="2.3.1"))
    message = fails(tritonserver.environment, pypi, tmp_path / "lib")
    assert message.endswith("needs numpy below 2, found 2.3.1: pip install 'numpy<2'")
    installed = TritonServer(tmp_path / "t", tmp_path / "b", None)
    assert "LD_LIBRARY_PATH" not in tritonserver.environment(installed, tmp_path / "lib") or os.environ.get(
        "LD_LIBRARY_PATH"
    )


def test_an_interpreter_without_python3_beside_it_is_told_to_use_an_environment(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the stub against finding another Python, without our packages."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "odd" / "python"))
    assert fails(tritonserver.environment, pypi, tmp_path / "lib") == (
        f"{tmp_path / 'odd'} has no python3; run gesso-serve from a virtual environment"
    )


# What people's machines are like


def test_a_triton_that_this_user_may_not_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards another user's installation (triton-inference-server/server#5819): not five restarts of a dead stub."""
    root = from_pypi(tmp_path / "cache")
    tritonserver.find()
    allowed = os.access
    for file, what in (
        ("bin/tritonserver", "run"),
        (f"python_backend_stubs/{PYTHON}/triton_python_backend_stub", "run"),
    ):
        monkeypatch.setattr(os, "access", lambda path, right, file=file: path != root / file and allowed(path, right))
        assert fails(tritonserver.find) == f"{root / file} is not there, or this user may not {what} it"
    monkeypatch.setattr(os, "access", allowed)
    (root / "backends" / "python" / "libtriton_python.so").unlink()
    assert fails(tritonserver.find).endswith("libtriton_python.so is not there, or this user may not read it")


def test_a_user_without_a_home_is_told_or_served(
    pypi: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a container's made-up user (triton-inference-server/server#2600): HOME is not set, and nothing says it."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert tritonserver.find() == pypi  # GESSO_TRITON says where
    assert tritonserver.environment(pypi, tmp_path / "scratch" / "lib")["HOME"] == str(tmp_path / "scratch")
    monkeypatch.delenv("GESSO_TRITON")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert fails(tritonserver.find) == "this user has no home: say where Triton is, or shall be, in GESSO_TRITON"


def test_an_installed_server_in_an_odd_folder_is_reached_by_a_plain_link(tmp_path: Path) -> None:
    """Guards Triton, which gives the path of its stub to a shell."""
    odd = TritonServer(tmp_path / "odd one" / "bin" / "tritonserver", tmp_path / "odd one" / "backends", None)
    odd.backends.mkdir(parents=True)
    assert tritonserver.backend_folder(odd, tmp_path / "scratch").samefile(odd.backends)
