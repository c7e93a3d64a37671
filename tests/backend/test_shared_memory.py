"""Bounds that fit in /dev/shm: told at the start, and refused by size before Triton needs memory that is not there."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import pytest

from gesso_backend.errors import ServeError
from gesso_backend.host import shared_memory
from gesso_backend.host.shared_memory import Fit
from gesso_backend.settings import Settings


def fit(monkeypatch: pytest.MonkeyPatch, mib: int, models: int = 1) -> Fit:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=mib * 2**20))
    return shared_memory.fit(Settings(), models)


def test_dockers_default_lowers_the_bounds_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the operator with 64 MB, whose later requests broke with no word at the start; and each model's share."""
    small = fit(monkeypatch, 64)
    pixels = 60 * 2**20 // 24
    assert small.settings == Settings(max_image_pixels=pixels)
    assert small.waiting_mib == 10
    assert small.line == f"/dev/shm has 64 MiB free: pictures of at most {pixels} pixels (for Docker, --shm-size 1g)"
    assert fit(monkeypatch, 64, models=2).settings.max_image_pixels == 28 * 2**20 // 24


def test_with_enough_the_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a line on every machine."""
    assert fit(monkeypatch, 2**15) == Fit(Settings(), Settings.max_input_mib, None)
    assert fit(monkeypatch, 1024).line is None  # as compose.yaml and the manifests have it


@pytest.mark.parametrize("mib", [0, 1, 8])
def test_too_little_for_any_picture_is_refused(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    """Guards against a server that starts and serves nothing."""
    with pytest.raises(ServeError) as caught:
        fit(monkeypatch, mib)
    message = str(caught.value)
    assert message == f"/dev/shm has {mib} MiB free; at least 10 MiB are needed, for Docker --shm-size 1g"


def test_none_at_all_is_one_line(tmp_path: Path) -> None:
    """Guards machines without it."""
    with pytest.raises(ServeError, match="No such file or directory; Triton passes pictures through it"):
        shared_memory.fit(Settings(), 1, tmp_path / "none")


def test_other_users_cannot_read_the_pictures_in_it(tmp_path: Path) -> None:
    """Guards pictures against everybody on the machine; regions of others are left alone."""
    for name in ("gesso_1_a", "gesso_12_b"):
        (tmp_path / name).touch(0o644)
    shared_memory.close_to_others("gesso_1_", tmp_path)
    assert [oct((tmp_path / name).stat().st_mode)[-3:] for name in ("gesso_1_a", "gesso_12_b")] == ["600", "644"]
