"""What a server has to itself, and what is removed of servers that have ended without doing so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gesso_backend.host import environments
from gesso_backend.host.scratch import Scratch, sweep
from gesso_backend.triton import processes

DYING = """
import os, signal
from gesso_backend.host import shared_memory
from gesso_backend.host.scratch import Scratch

dying = Scratch()
(shared_memory.FOLDER / f"{dying.regions}region").touch()
print(dying.folder, dying.regions, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of /tmp, a folder of the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """The folder of a server that was killed; it kept a region of shared memory."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", DYING], env=env, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder, regions = done.stdout.split()
    assert regions_of(regions)
    yield Path(folder)
    for region in regions_of(regions):
        region.unlink()


def regions_of(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))


def test_a_start_removes_what_killed_servers_left(dead: Path) -> None:
    """Guards disk and memory: each killed server left its folder and 2 MiB or more of /dev/shm for good."""
    regions = json.loads((dead / "lock").read_text())["regions"]
    with Scratch():
        assert not dead.exists()
        assert not regions_of(regions)


def test_a_removal_that_is_killed_halfway_is_finished_by_the_next(
    dead: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the disk: the record went first, and a folder without one is nobody's."""
    (dead / "lib").mkdir()
    (dead / "control").mkdir()
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(elsewhere)
    assert (dead / "lock").exists()
    sweep(elsewhere)
    assert not dead.exists()


def interrupted(folder: Path, ignore_errors: bool = False) -> None:
    """A removal that begins with the record and does not get beyond it."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != "lock"):
        path.rmdir() if path.is_dir() else path.unlink()
        break
    raise KeyboardInterrupt


def test_what_lives_is_left_alone() -> None:
    """Guards the servers beside this one, and two that start at the same time."""
    with Scratch() as living:
        region = Path("/dev/shm") / f"{living.regions}region"
        region.touch()
        with Scratch() as other:
            assert living.folder.exists()
            assert region.exists()
            assert other.regions != living.regions
        assert living.folder.exists()
    assert not living.folder.exists()
    assert not region.exists()


def test_what_is_not_provably_a_dead_server_of_ours_is_left_alone(dead: Path, elsewhere: Path) -> None:
    """Guards other people's files: a name alone proves nothing, nor does a lock that this file system cannot hold."""
    for name in ("gesso-serve-notes", "gesso-serve-other"):
        (elsewhere / name).mkdir()
    (elsewhere / "gesso-serve-other" / "lock").write_text("{}")
    (elsewhere / "gesso-serve-file").touch()
    (elsewhere / "gesso-serve-link").symlink_to(dead)
    record = json.loads((dead / "lock").read_text())
    (dead / "lock").write_text(json.dumps({**record, "pid": os.getpid(), "started": processes.started(os.getpid())}))
    sweep(elsewhere)
    assert dead.exists()
    stranger = Path("/dev/shm") / f"gesso-test-{os.getpid()}"
    stranger.touch()
    try:
        (dead / "lock").write_text(json.dumps({**record, "regions": "gesso"}))
        sweep(elsewhere)
        assert stranger.exists()
    finally:
        stranger.unlink()
    names = ["gesso-serve-file", "gesso-serve-link", "gesso-serve-notes", "gesso-serve-other"]
    assert sorted(path.name for path in elsewhere.iterdir()) == names


@pytest.mark.parametrize("content", [None, "", "what?", "[]", "12", '{"pid": 1}'])
def test_what_may_be_somebody_elses_stays(elsewhere: Path, content: str | None) -> None:
    """A folder of that name without a record, one that is just being made, and one that is none of ours."""
    folder = elsewhere / "gesso-serve-mine"
    folder.mkdir()
    if content is not None:
        (folder / "lock").write_text(content)
    with Scratch():
        assert folder.is_dir()


def made(elsewhere: Path, name: str, seconds_ago: float = 60.0) -> Path:
    folder = elsewhere / name
    folder.mkdir()
    os.utime(folder, (time.time() - seconds_ago,) * 2)
    return folder


def test_environments_that_our_dead_triton_made_are_removed(
    dead: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards /tmp: each killed Triton left an empty python_env_ folder."""
    monkeypatch.setattr(processes, "maps", lambda pid, library: False)
    ours, foreign, full = (made(elsewhere, f"python_env_{name}") for name in ("aB3dE6", "foreig", "filled"))
    (full / "file").touch()
    (dead / "environments").write_text(f"{ours.name}\n{full.name}\n../{elsewhere.name}")
    sweep(elsewhere)
    assert not ours.exists()
    assert foreign.exists()
    assert full.exists()
    with Scratch() as own:
        own.note({foreign.name})
    assert not foreign.exists()


def test_environments_that_a_living_triton_may_have_made_are_left(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a Triton that somebody started at the same moment as ours."""
    monkeypatch.setattr(processes, "maps", lambda pid, library: pid == os.getpid())
    older, newer = made(elsewhere, "python_env_older1", 10**6), made(elsewhere, "python_env_newer1", -60.0)
    environments.remove({older.name, newer.name})
    assert not older.exists()
    assert newer.exists()


def test_a_folder_that_cannot_be_written_is_not_left_half_made(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a full disk against what is left of every try."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        Scratch()
    assert not list(elsewhere.iterdir())
