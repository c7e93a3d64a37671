"""The child that builds, and what is published of it: all or nothing. The child of these tests is a few lines."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.test_engines_spec import SPEC
from gesso_export.errors import BuildError
from gesso_export.progress import Progress
from gesso_export.tensorrt import child, publish, timing_cache
from gesso_export.tensorrt.build import build_all

PLAN = b"a plan"
RESULT = {
    "plan": "unet.plan", "sha256": hashlib.sha256(PLAN).hexdigest(), "bytes": len(PLAN),
    "compute_capability": "9.0", "seconds": 1.5, "verified": {"largest_error": 1e-5}, "versions": {"tensorrt": "11.4"},
}  # fmt: skip
GOOD = f"""
    emit(event="stage", stage="build")
    emit(event="phase", phase="Building", parent=None, steps=2)
    emit(event="step", phase="Building", step=0)
    (staging / "unet.plan").write_bytes({PLAN!r})
    cache = Path(task["timing_cache"])
    cache.write_bytes((cache.read_bytes() if cache.exists() else b"") + b"learned;")
    (task_file.parent.parent.parent / "built").open("a").write("x")
    emit(event="done", **{RESULT!r})
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gesso" / "tensorrt"


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    """A child that does what the body says."""

    def write(body: str) -> list[str]:
        file = tmp_path / "child.py"
        head = """
            import json, os, signal, sys, time
            from pathlib import Path
            task_file, pipe = Path(sys.argv[1]), open(int(sys.argv[3]), "w")
            task, staging = json.loads(task_file.read_text()), task_file.parent
            def emit(**event):
                pipe.write(json.dumps(event) + chr(10)); pipe.flush()
        """
        file.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        return [sys.executable, str(file)]

    return write


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    return folder


def build(bundle: Path, command: list[str], **options: Any) -> Path:
    (folder,) = build_all(bundle, [SPEC], 0, Progress(None), command, **options)
    return folder


def test_a_build_that_ends_well_is_published_with_its_spec(
    bundle: Path, program: Callable[[str], list[str]], cache: Path
) -> None:
    """Guards the layout that the backend reads, and that nothing else stays behind."""
    folder = build(bundle, program(GOOD))
    assert folder == bundle / "engines" / SPEC.key
    assert [path.name for path in (bundle / "engines").iterdir()] == [SPEC.key]
    assert sorted(path.name for path in folder.iterdir()) == ["unet.json", "unet.plan"]
    assert (folder / "unet.plan").read_bytes() == PLAN
    assert json.loads((folder / "unet.json").read_text()) == {"spec": SPEC.document(), "result": RESULT}
    assert [path.name for path in cache.iterdir()] == ["trt11.4.0.106-NVIDIA_H100_80GB_HBM3.timing"]


def test_what_is_there_is_skipped_and_what_is_damaged_is_built_again(
    bundle: Path, program: Callable[[str], list[str]], cache: Path
) -> None:
    """Guards hours of building; and against trusting a name."""
    folder = build(bundle, program(GOOD))
    built = bundle / "built"
    build(bundle, program(GOOD))
    assert built.read_text() == "x"
    build(bundle, program(GOOD), force=True)
    assert built.read_text() == "xx"
    for file, content in (("unet.plan", b"a plaN"), ("unet.plan", b"a"), ("unet.json", b"{}")):
        (folder / file).write_bytes(content)
        assert not publish.published(bundle, SPEC)
        build(bundle, program(GOOD))
        assert publish.published(bundle, SPEC)
    assert built.read_text() == "xxxxx"
    (timings,) = cache.iterdir()
    assert timings.read_bytes() == b"learned;" * 5  # each build began with what those before it had learned


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("emit(event='error', message='unet: TensorRT cannot build it')", "unet: TensorRT cannot build it"),
        ("(staging / 'unet.plan').write_bytes(b'half')\nos.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        ("print('out of memory'); sys.exit(3)", "status 3 and without an engine\nout of memory"),
        ("pass", "status 0 and without an engine"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("pipe.write('no json\\n'); pipe.flush(); time.sleep(60)", "what is no event: 'no json'"),
    ],
)
def test_a_build_that_fails_publishes_nothing_and_says_why(
    bundle: Path, program: Callable[[str], list[str]], body: str, reason: str, cache: Path
) -> None:
    """Guards the bundle against half an engine, in every way there is to fail."""
    with pytest.raises(BuildError) as error:
        build(bundle, program(body))
    assert reason in str(error.value)
    assert list(bundle.iterdir()) == []
    assert not cache.exists()


def test_a_child_killed_midway_leaves_nothing_and_an_older_engine_stays(
    bundle: Path, program: Callable[[str], list[str]]
) -> None:
    """Guards the kernel's out-of-memory killer, in the middle of a build over a published engine."""
    folder = build(bundle, program(GOOD))
    command = program(
        "(staging / 'unet.plan').write_bytes(b'half')\nemit(event='pid', pid=os.getpid())\ntime.sleep(60)"
    )

    def kill(event: Any) -> None:
        threading.Timer(0.05, os.kill, (event["pid"], signal.SIGKILL)).start()

    with publish.staged(bundle, SPEC) as staging:
        (staging / "task.json").write_text("{}")
        with pytest.raises(BuildError, match="ended by SIGKILL"):
            child.run([*command, str(staging / "task.json")], staging / "log", kill)
    assert [path.name for path in (bundle / "engines").iterdir()] == [SPEC.key]
    assert (folder / "unet.plan").read_bytes() == PLAN


def test_an_interrupted_parent_takes_its_child_along(bundle: Path, program: Callable[[str], list[str]]) -> None:
    """Guards a GPU against a build that nobody waits for."""
    pids: list[int] = []
    command = program("emit(event='pid', pid=os.getpid())\ntime.sleep(60)")

    def interrupt(event: Any) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with publish.staged(bundle, SPEC) as staging:
        (staging / "task.json").write_text("{}")
        with pytest.raises(KeyboardInterrupt):
            child.run([*command, str(staging / "task.json")], staging / "log", interrupt)
    assert not Path(f"/proc/{pids[0]}").exists()
    assert list(bundle.iterdir()) == []


def test_what_a_killed_parent_left_is_swept_by_the_next(bundle: Path, program: Callable[[str], list[str]]) -> None:
    """Guards the disk; and the folder of a build that still runs."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = bundle / "engines" / f".other.{dead.pid}.partial"
    living = bundle / "engines" / f".other.{os.getpid()}.partial"
    for folder in (left, living):
        folder.mkdir(parents=True)
    build(bundle, program(GOOD))
    assert not left.exists()
    assert living.exists()


def test_a_timing_cache_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """Guards the next build against a cache that ends in the middle."""
    cache, copy = tmp_path / "cache" / "x.timing", tmp_path / "copy"
    timing_cache.get(cache, copy)
    timing_cache.put(copy, cache)
    assert not cache.exists()  # a build that wrote none
    copy.write_bytes(b"one")
    timing_cache.put(copy, cache)
    assert [path.name for path in cache.parent.iterdir()] == ["x.timing"]
    other = tmp_path / "other"
    timing_cache.get(cache, other)
    assert other.read_bytes() == b"one"


def test_events_arrive_while_the_child_works(tmp_path: Path, program: Callable[[str], list[str]]) -> None:
    """Guards progress against a buffer that is emptied at the end."""
    command = program("emit(event='step', phase='a', step=0)\ntime.sleep(0.5)\nemit(event='done')")
    (tmp_path / "task.json").write_text("{}")
    seen: list[float] = []
    child.run([*command, str(tmp_path / "task.json")], tmp_path / "log", lambda event: seen.append(time.monotonic()))
    assert time.monotonic() - seen[0] > 0.3


def test_the_real_child_says_what_it_lacks(bundle: Path, tmp_path: Path) -> None:
    """Guards `python -m gesso_export.tensorrt.builder` itself: task in, events out, on a machine without TensorRT."""
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("TensorRT is installed")
    with pytest.raises(BuildError, match="tensorrt cannot be imported"):
        build_all(bundle, [SPEC], 0, Progress(None))
    assert list(bundle.iterdir()) == []
