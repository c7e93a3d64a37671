"""What a killed gesso-serve leaves is gone after the next start, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gesso_backend.host import scratch
from gesso_backend.host.scratch import scratch_folder

HOLD = """
import time
from gesso_backend.host.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder and shared memory of the test's own."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(scratch, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_the_next_start_removes_what_a_killed_server_left(places: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        region = places / "shm" / f"gesso_{other.pid}_1"
        region.touch()
        with scratch_folder():  # of a server that is alive
            assert left.is_dir()
            assert region.exists()
        other.kill()
        other.wait()
        with scratch_folder() as own:
            assert not left.exists()
            assert not region.exists()
            assert own.is_dir()
    assert not own.exists()


@pytest.mark.parametrize("content", [None, "", "what?"])
def test_what_may_be_somebody_elses_stays(places: Path, content: str | None) -> None:
    """A folder of that name without an owner file, one just being made, and one that is none of ours."""
    folder = places / "gesso-serve-mine"
    folder.mkdir()
    if content is not None:
        (folder / "owner").write_text(content)
    with scratch_folder():
        assert folder.is_dir()
