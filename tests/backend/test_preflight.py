"""The checks before anything is installed; test_tritonserver looks at each of them."""

from __future__ import annotations

import platform
import shutil
import sys
import types
from pathlib import Path

import pytest

from gesso_backend.host import preflight


def test_preflight_prints_every_problem_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Guards `make` on a bare machine: all that is missing at once, a line each."""
    monkeypatch.setattr(sys, "argv", ["preflight.py", str(tmp_path / "not" / "yet")])
    monkeypatch.setattr(preflight, "PYTHONS", ((2, 7),))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=0))
    monkeypatch.setattr(preflight, "own_libpython", lambda: tmp_path)
    assert preflight.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["gesso:", "Python"],
        ["gesso:", "Triton"],
        ["gesso:", str(tmp_path)],
    ]


def test_preflight_is_silent_where_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Guards against noise on every run."""
    monkeypatch.setattr(sys, "argv", ["preflight.py", str(tmp_path)])
    for check in ("python_problem", "glibc_problem", "libpython_problem"):
        monkeypatch.setattr(preflight, check, lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**50))
    assert preflight.main() == 0
    assert capsys.readouterr() == ("", "")
