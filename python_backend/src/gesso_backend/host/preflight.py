"""What a machine must have before anything is installed, and how to say that it lacks it. Standard library only.

`python preflight.py FOLDER` checks for a first set-up in FOLDER; the same checks serve gesso-serve.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

PYTHONS = ((3, 11), (3, 12))
GLIBC = (2, 35)  # what Triton from PyPI was built for
SETUP_BYTES = 6 * 2**30  # environment, Triton, pip's cache and the bundles of the tests
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON}.so.1.0"


def python_problem() -> str | None:
    if sys.version_info[:2] not in PYTHONS:
        known = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        return f"Python {PYTHON} is not supported: use {known} (make PYTHON=/path/to/python3.11)"
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        return f"this Python cannot make virtual environments: on Debian or Ubuntu `apt install python{PYTHON}-venv`"
    return None


def glibc_problem() -> str | None:
    system, version = platform.libc_ver()
    if system == "glibc" and platform.machine() == "x86_64":
        major, minor = (int(part) for part in version.split(".")[:2])
        if (major, minor) >= GLIBC:
            return None
    return (
        f"Triton from PyPI needs x86-64 Linux with glibc {GLIBC[0]}.{GLIBC[1]} or newer (Debian 12, Ubuntu 22.04); "
        f"this is {platform.machine()} with {system or 'no glibc'} {version}".rstrip()
    )


def own_libpython() -> Path | None:
    """This interpreter's shared library, if it was built with one."""
    library = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent") / LIBPYTHON
    return library if library.is_file() else None


def libpython_problem() -> str | None:
    """Triton's Python stub is linked to libpython; this interpreter's own or one the loader finds will do."""
    if own_libpython() is not None:
        return None
    try:
        ctypes.CDLL(LIBPYTHON)
    except OSError:
        return (
            f"{LIBPYTHON} is missing: on Debian or Ubuntu `apt install libpython{PYTHON}`; a pyenv Python needs "
            "PYTHON_CONFIGURE_OPTS=--enable-shared"
        )
    return None


def space_problem(folder: Path, needed: int) -> str | None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f"{folder} has {free >> 20} MiB free; {needed >> 20} MiB are needed" if free < needed else None


def main() -> int:
    folder = Path(sys.argv[1]).absolute()
    checks = (python_problem(), glibc_problem(), libpython_problem(), space_problem(folder, SETUP_BYTES))
    problems = [problem for problem in checks if problem is not None]
    for problem in problems:
        print(f"gesso: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
