"""The cache of the tests' own bundles: what it is keyed by, and what is removed of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import bundles

HOLD = """
import sys, pathlib, bundles
bundles.generation(pathlib.Path(sys.argv[1]), "b")
print("held", flush=True)
input()
"""
FILES = ("export/src/gesso_export/families/flux.py", "examples/maker.py", "examples/little-world/unet.json",
         "constraints.txt")  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the key is made of, in small."""
    for name in FILES:
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    return tmp_path / "tree"


@pytest.mark.parametrize("change", ["edited", "renamed", "added", "removed"])
@pytest.mark.parametrize("folder", ["export/src/gesso_export/families", "examples", "examples/little-world"])
def test_any_change_of_what_bundles_are_made_by_is_another_key(tree: Path, folder: str, change: str) -> None:
    """Guards against tests of yesterday's bundles."""
    before = bundles.key(tree)
    file = next(path for path in (tree / folder).iterdir() if path.is_file())
    match change:
        case "edited":
            file.write_text("two")
        case "renamed":
            file.rename(file.with_name(f"new{file.suffix}"))
        case "added":
            shutil.copy(file, file.with_name(f"new{file.suffix}"))
        case "removed":
            file.unlink()
    assert bundles.key(tree) != before


def test_the_pins_are_part_of_the_key_and_what_python_compiles_is_not(tree: Path) -> None:
    """Guards against a new torch with old graphs, and against a key that a run changes by itself."""
    before = bundles.key(tree)
    compiled = tree / "export/src/gesso_export/__pycache__/flux.pyc"
    compiled.parent.mkdir()
    compiled.write_text("bytes")
    assert bundles.key(tree) == before
    (tree / "constraints.txt").write_text("torch==3")
    assert bundles.key(tree) != before


def used(cache: Path, key: str, when: int) -> None:
    """A generation as an ended process left it."""
    (cache / key).mkdir(parents=True)
    (cache / key / bundles.IN_USE).touch()
    (cache / key / "bundle").mkdir()
    os.utime(cache / key / bundles.IN_USE, (when, when))


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_the_generations_used_last_are_kept(tmp_path: Path) -> None:
    """Guards the disk of everybody who works on the exporter."""
    for when, key in enumerate("cab"):
        used(tmp_path, key, when)
    assert bundles.generation(tmp_path, "new") == tmp_path / "new"
    assert left(tmp_path) == ["b", "new"]
    assert bundles.generation(tmp_path, "b") == tmp_path / "b"
    assert (tmp_path / "b" / "bundle").is_dir()
    assert left(tmp_path) == ["b", "new"]


def test_what_another_process_uses_is_not_removed(tmp_path: Path) -> None:
    """Guards the tests of another checkout, which run meanwhile."""
    used(tmp_path, "b", 1)
    environment = {**os.environ, "PYTHONPATH": str(Path(bundles.__file__).parent)}
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        os.utime(tmp_path / "b" / bundles.IN_USE, (1, 1))
        used(tmp_path, "a", 2)
        bundles.generation(tmp_path, "new")
        assert left(tmp_path) == ["a", "b", "new"]
    finally:
        other.communicate(b"\n")
    used(tmp_path, "c", 3)
    bundles.generation(tmp_path, "newer")
    assert "b" not in left(tmp_path)


def test_a_checkpoint_is_there_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the next run against what a killed one left."""
    calls = []

    def make(folder: Path, **options: object) -> None:
        calls.append(options)
        folder.mkdir()
        (folder / "first").touch()
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "random_checkpoint", SimpleNamespace(MAKERS={"tiny": make}))
    with pytest.raises(KeyboardInterrupt):
        bundles.checkpoint(tmp_path, seed=3)
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.endswith(".partial")]
    made = bundles.checkpoint(tmp_path, seed=3)
    assert [path.name for path in made.iterdir()] == ["first"]
    assert bundles.checkpoint(tmp_path, seed=3) == made
    assert calls == [{"seed": 3}] * 2
