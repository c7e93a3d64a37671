"""Where a bundle is written: refused before any work, whole or not there, and nothing of a killed export is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gesso_export.bundle import staging
from gesso_export.bundle.manifest import FILE_NAME
from gesso_export.errors import NoSpaceError, OutputError

EXPORT = """
import sys, time
from pathlib import Path
from gesso_export.bundle import staging
out = Path(sys.argv[1])
with staging.scratch(out) as unpacked, staging.staged(out, True) as partial:
    (unpacked / "weights").write_text("a")
    (partial / "graph").write_text("b")
    print("ready", flush=True)
    time.sleep(600)
"""


def half_an_export(out: Path) -> subprocess.Popen[str]:
    """A process in the middle of one."""
    process = subprocess.Popen([sys.executable, "-c", EXPORT, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_a_killed_export_left_is_cleaned_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """`.partial` folders of gigabytes stayed for ever."""
    out = tmp_path / "bundle"
    (tmp_path / ".bundle.two.7.partial").mkdir()  # of another bundle, bundle.two
    process = half_an_export(out)
    try:
        theirs = {f".bundle.{process.pid}.{kind}" for kind in ("partial", "unpacked")}
        with staging.staged(out) as partial:
            (partial / FILE_NAME).write_text("ours")
            assert theirs < {path.name for path in tmp_path.iterdir()}
    finally:
        process.kill()
        process.communicate()
    with staging.staged(out, force=True) as partial:
        (partial / FILE_NAME).write_text("again")
        assert not theirs & {path.name for path in tmp_path.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.two.7.partial", "bundle"]
    assert (out / FILE_NAME).read_text() == "again"


def test_a_bundle_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames, the old bundle lay under a name that nobody looks for."""
    out = tmp_path / "bundle"
    old = tmp_path / f".bundle.{2**22 + 1}.replaced"  # no process has a number as high
    old.mkdir()
    (old / FILE_NAME).write_text("old")
    staging.sweep(out)
    assert (out / FILE_NAME).read_text() == "old"
    old.mkdir()
    staging.sweep(out)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def finish(out: Path) -> None:
    """An export during which somebody else writes to its place."""
    with staging.staged(out) as partial:
        (partial / FILE_NAME).write_text("ours")
        out.write_text("somebody else's")


def test_a_finished_bundle_is_kept_when_its_place_was_taken(tmp_path: Path) -> None:
    """After an hour of work, somebody else's file in its place is no reason to throw the bundle away."""
    out = tmp_path / "bundle"
    with pytest.raises(OutputError, match=r"exists; .*the finished bundle is in .*bundle\.finished-1"):
        finish(out)
    assert (tmp_path / "bundle.finished-1" / FILE_NAME).read_text() == "ours"
    assert out.read_text() == "somebody else's"


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is not a directory"):
        staging.check_output(tmp_path / "file" / "bundle", force=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="is not writable"):
        staging.check_output(tmp_path / "new" / "bundle", force=False)
    monkeypatch.undo()
    with pytest.raises(NoSpaceError), staging.scratch(tmp_path / "bundle", needed=2**60):
        pass
    with pytest.raises(OutputError, match="cannot be written"), staging.scratch(tmp_path / ("n" * 300)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
