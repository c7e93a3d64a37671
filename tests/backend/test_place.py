"""Where gesso-serve keeps what Triton reads: TMPDIR as people have it."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import pytest

from gesso_backend.errors import ServeError
from gesso_backend.host import place
from gesso_backend.host.place import scratch_place


def fails() -> str:
    with pytest.raises(ServeError) as caught:
        scratch_place()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_in_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards what an administrator chose."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert scratch_place() == tmp_path


@pytest.mark.parametrize("name", ["with space", "größe", "it's", "a;b", "two\nlines"])
def test_a_tmpdir_that_triton_cannot_take_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Guards Triton, which gives the stub's path to a shell (`Failed to give execute permission`), and its Python."""
    (tmp_path / name).mkdir()
    (tmp_path / "plain").mkdir()
    monkeypatch.setattr(place, "PLACES", (str(tmp_path / "plain"),))
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    assert scratch_place() == tmp_path / "plain"


def test_a_tmpdir_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a server somewhere else than the administrator said."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert fails().startswith(f"TMPDIR: {tmp_path / 'nowhere'}: that is no folder; ")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(place.os, "access", lambda path, rights: False)
    assert fails().startswith(f"TMPDIR: {tmp_path}: this user cannot write there; ")


def test_a_full_tmpdir_is_left_for_another_place_or_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against `error: None`."""
    full, roomy = tmp_path / "full", tmp_path / "roomy"
    full.mkdir()
    roomy.mkdir()
    free = {str(full): 0, str(roomy): 2**40}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free[str(folder)]))
    monkeypatch.setattr(place, "PLACES", (str(roomy),))
    monkeypatch.setenv("TMPDIR", str(full))
    assert scratch_place() == roomy
    free[str(roomy)] = 0
    assert fails() == f"TMPDIR: {full} has 0 MiB free; 1 MiB are needed"
