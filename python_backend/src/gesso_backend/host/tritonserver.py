"""Finding a Triton Inference Server, installing the one on PyPI, and the environment its Python stub needs.

An installed tritonserver (an NGC image has one) is preferred. Otherwise the PyPI package nvidia-pytriton carries a real
one, release 24.10: fit for laptops and tests on loopback, not for production.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gesso_backend.errors import ServeError
from gesso_backend.host import preflight
from gesso_backend.host.place import PLAIN
from gesso_backend.host.preflight import PYTHON

PACKAGE = "nvidia-pytriton==0.7.0"
VERSION = "2.51.0"
INSTALLED = Path("/opt/tritonserver")  # where NGC images have it
# What glibc needs to be told for Triton and its models to give back the memory of large requests: few heaps, and what
# is as large as a picture neither kept nor taken from them. Measured in docs/status.md.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
NEEDED_BYTES = 400 * 2**20  # the package, unpacked, and pip's own copy of it


@dataclass(frozen=True)
class TritonServer:
    binary: Path
    backends: Path
    stub: Path | None  # the PyPI package's stub for this Python, which its backend lacks

    @property
    def from_pypi(self) -> bool:
        return self.stub is not None


def cache_folder() -> Path:
    """Where the PyPI Triton lives: $GESSO_TRITON, else the user's cache. Raises ServeError for one without a home."""
    if chosen := os.environ.get("GESSO_TRITON"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    if not cache and not _has_home():
        raise ServeError("this user has no home: say where Triton is, or shall be, in GESSO_TRITON")
    return Path(cache or Path.home() / ".cache") / "gesso" / f"tritonserver-{VERSION}"


def _has_home() -> bool:
    """Without HOME the user's entry in the password file says it, which a container's made-up user does not have."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def find() -> TritonServer:
    """An installed tritonserver, else the PyPI one. Raises ServeError that says how to get one."""
    on_path = shutil.which("tritonserver")
    for binary in (Path(on_path).resolve() if on_path else None, INSTALLED / "bin" / "tritonserver"):
        if binary is not None and binary.is_file():
            return _usable(TritonServer(binary, binary.parent.parent / "backends", stub=None))
    folder = cache_folder()
    if not (folder / "complete").is_file():
        raise ServeError("no tritonserver found; run `gesso-serve --install-triton` to get the one on PyPI")
    root = folder / "pytriton" / "tritonserver"
    stub = root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServeError(f"Triton {VERSION} from PyPI has no stub for Python {PYTHON}; use Python 3.11 or 3.12")
    return _usable(TritonServer(root / "bin" / "tritonserver", root / "backends", stub))


def _usable(server: TritonServer) -> TritonServer:
    """Raises ServeError where this user may not run it: Triton itself would only be started again and again."""
    library = server.backends / "python" / "libtriton_python.so"
    stub = server.stub or server.backends / "python" / "triton_python_backend_stub"
    for file, right, what in ((server.binary, os.X_OK, "run"), (stub, os.X_OK, "run"), (library, os.R_OK, "read")):
        if not os.access(file, right):
            raise ServeError(f"{file} is not there, or this user may not {what} it")
    return server


def install() -> Path:
    """Install the PyPI Triton in the cache folder, unless it is there. Raises ServeError."""
    folder = cache_folder()
    if (folder / "complete").is_file():
        return folder
    for problem in (preflight.glibc_problem(), preflight.space_problem(folder, NEEDED_BYTES)):
        if problem is not None:
            raise ServeError(problem)
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade"]
    done = subprocess.run([*pip, "--target", str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode != 0:
        reasons = done.stderr.strip().splitlines() or ["no reason given"]
        raise ServeError(f"pip could not install {PACKAGE}: {reasons[-1]}")
    (folder / "complete").touch()
    return folder


def backend_folder(server: TritonServer, scratch: Path) -> Path:
    """The backends to give Triton; for the PyPI one links to them and to this Python's stub, made in `scratch`.

    The stub belongs beside the backend's own library. The installed tree is left as it is, so that servers of
    different Pythons can share it.
    """
    if server.stub is None:
        if PLAIN.fullmatch(str(server.backends)):
            return server.backends
        scratch.symlink_to(server.backends)
        return scratch
    python = scratch / "python"
    python.mkdir(parents=True)
    for file in [*(server.backends / "python").glob("*.*"), server.stub]:
        (python / file.name).symlink_to(file)
    return scratch


def environment(server: TritonServer, libraries: Path) -> dict[str, str]:
    """The environment tritonserver is to run in.

    libraries: a folder of ours where a link to libpython is put if the loader does not find it by itself; the one that
    it is in is home to a user who has none.
    Raises ServeError when the stub could not run in it.
    """
    env = {**MALLOC, **os.environ}
    # The stub takes its packages from the first python3 on PATH.
    scripts = Path(sys.executable).parent
    if not (scripts / "python3").exists():
        raise ServeError(f"{scripts} has no python3; run gesso-serve from a virtual environment")
    env["PATH"] = f"{scripts}{os.pathsep}{env.get('PATH', '')}"
    if not _has_home():
        env["HOME"] = str(libraries.parent)
    env["PYTHONUTF8"] = "1"  # the stub would take its encoding from the locale, and a container often has none
    if server.from_pypi:
        if int(np.__version__.split(".")[0]) >= 2:
            raise ServeError(f"Triton {VERSION} needs numpy below 2, found {np.__version__}: pip install 'numpy<2'")
        _link_libpython(libraries)
        env["LD_LIBRARY_PATH"] = f"{libraries}{os.pathsep}{env.get('LD_LIBRARY_PATH', '')}".rstrip(os.pathsep)
    return env


def _link_libpython(libraries: Path) -> None:
    """The stub is linked to libpython. Prefer this interpreter's own to what the loader finds.

    Only that file is linked, not its folder: a folder of libraries could replace those Triton was built with.
    """
    problem = preflight.libpython_problem()
    if problem is not None:
        raise ServeError(problem)
    libraries.mkdir(parents=True, exist_ok=True)
    own = preflight.own_libpython()
    if own is not None:
        (libraries / preflight.LIBPYTHON).symlink_to(own)
