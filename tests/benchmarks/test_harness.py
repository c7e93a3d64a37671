"""What benchmarks share: artefacts and their keys, pages, alternating runs, quantiles, processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as package
from benchmarks.harness import page
from benchmarks.harness.alternate import alternate, faster, timed
from benchmarks.harness.artefacts import bundle_key, key_file, made
from benchmarks.harness.processes import memory
from benchmarks.harness.quantiles import quantile
from benchmarks.harness.side import side
from benchmarks.harness.tensors import tensors

ROOT = Path(package.__file__).parents[1]


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self.now, self.speed = 0.0, 1.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds / self.speed


def test_a_slower_machine_slows_both_sides_and_leaves_their_ratio() -> None:
    """Guards the reason for alternating: one side after the other, the second would be found half as fast."""
    clock = Clock()

    def side_of(seconds: float) -> float:
        took = timed(lambda: clock.work(seconds), clock)
        clock.speed *= 0.99
        return took

    rounds = list(alternate({"ours": lambda _: side_of(1.0), "theirs": lambda _: side_of(3.0)}, 70))
    ours, theirs = ([each[name] for each in rounds] for name in ("ours", "theirs"))
    assert ours[-1] > 2 * ours[0]
    assert faster(ours, theirs) == pytest.approx(3.0, rel=0.02)


def test_neither_side_is_always_first() -> None:
    """Guards against what the first of two does to the caches of the second."""
    calls: list[tuple[str, int]] = []
    sides = {name: lambda number, name=name: calls.append((name, number)) for name in "ab"}
    rounds = list(alternate(sides, 4))
    assert calls == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("b", 3)]
    assert [list(each) for each in rounds] == [["a", "b"]] * 4


def test_faster_is_the_median_of_the_rounds_ratios() -> None:
    """The ratio of the medians would pair rounds of different moments."""
    assert faster([1.0, 2.0, 4.0], [3.0, 2.0, 8.0]) == 2.0
    with pytest.raises(ValueError, match="zip"):
        faster([1.0], [1.0, 2.0])


def test_the_middle_quantile_is_the_median() -> None:
    """Two definitions would give two medians for the same run."""
    values = list(np.random.default_rng(0).standard_normal(30))
    assert quantile(values, 0.5) == pytest.approx(statistics.median(values))
    assert quantile([4.0, 1.0, 3.0], 0) == 1.0
    assert quantile([4.0, 1.0, 3.0], 1) == 4.0
    assert quantile([0.0, 10.0], 0.99) == pytest.approx(9.9)


def test_a_page_changes_between_its_marks_only(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("one\n<!-- m -->\nold\n<!-- m -->\ntwo\n<!-- m -->\n<!-- m -->\nthree\n")
    page.put(path, "<!-- m -->", "first", page.table(["a", "b"], [[1, "x"]]))
    assert path.read_text() == (
        "one\n<!-- m -->\nfirst\n<!-- m -->\ntwo\n<!-- m -->\n| a | b |\n|---|---|\n| 1 | x |\n<!-- m -->\nthree\n"
    )


@pytest.mark.parametrize("text", ["", "<!-- m -->", "<!-- m --> <!-- m --> <!-- m -->"])
def test_a_page_without_its_two_marks_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    """With one mark lost, the rest of the page would be taken for the old table."""
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected 2 lines"):
        page.put(path, "<!-- m -->", "table")
    assert path.read_text() == text


def sources(folder: Path) -> tuple[Path, Path]:
    """(a checkpoint, an exporter)."""
    checkpoint, exporter = folder / "checkpoint", folder / "exporter"
    (checkpoint / "unet").mkdir(parents=True)
    (checkpoint / "unet" / "weights").write_bytes(b"weights")
    exporter.mkdir()
    (exporter / "manifest.py").write_text("SCHEMA_VERSION = 3\n")
    return checkpoint, exporter


@pytest.mark.parametrize("change", ["schema", "weights", "precision"])
def test_what_a_bundle_is_made_from_is_its_key(tmp_path: Path, change: str) -> None:
    """A bundle of another schema ended `make demo` and every benchmark with "export again"."""
    checkpoint, exporter = sources(tmp_path)
    before = bundle_key(checkpoint, exporter=exporter)
    assert bundle_key(checkpoint, exporter=exporter) == before
    if change == "schema":
        (exporter / "manifest.py").write_text("SCHEMA_VERSION = 4\n")
    elif change == "weights":
        (checkpoint / "unet" / "weights").write_bytes(b"others")
    assert bundle_key(checkpoint, "fp16" if change == "precision" else "fp32", exporter) != before


def test_a_checkpoint_that_was_made_here_is_known_by_its_key(tmp_path: Path) -> None:
    """Guards against reading gigabytes of weights before every benchmark, and against missing a change of theirs."""
    checkpoint, exporter = sources(tmp_path)
    key_file(checkpoint).write_text("a")
    first = bundle_key(checkpoint, exporter=exporter)
    (checkpoint / "unet" / "weights").write_bytes(b"others")
    assert bundle_key(checkpoint, exporter=exporter) == first
    key_file(checkpoint).write_text("b")
    assert bundle_key(checkpoint, exporter=exporter) != first


def test_an_artefact_is_made_once_for_each_key(tmp_path: Path) -> None:
    out, calls = tmp_path / "bundle", []

    def make() -> None:
        calls.append(1)
        out.mkdir(exist_ok=True)

    for key in ("a", "a", "b", "b", "a"):
        assert made(out, key, make) == out
    assert len(calls) == 3


def test_what_was_not_finished_is_made_again(tmp_path: Path) -> None:
    """A disk that fills up leaves half of a checkpoint under the name of a whole one."""
    out = tmp_path / "checkpoint"

    def fail() -> None:
        out.mkdir(exist_ok=True)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        made(out, "a", fail)
    calls: list[int] = []
    made(out, "a", lambda: calls.append(1))
    with pytest.raises(OSError, match="no space"):
        made(out, "b", fail)
    made(out, "a", lambda: calls.append(2))
    assert calls == [1, 2]


def test_the_demo_and_the_benchmarks_take_each_others_bundle(tmp_path: Path) -> None:
    """With two keys for one folder, each would export what the other has just made."""
    checkpoint, _ = sources(tmp_path)
    program = (
        "import runpy, sys; from pathlib import Path\n"
        f"print(runpy.run_path({str(ROOT / 'examples' / 'demo.py')!r})['bundle_key'](Path({str(checkpoint)!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == bundle_key(checkpoint)


def test_tensors_have_the_wires_types() -> None:
    sent = tensors(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), "a boat", seed=7, num_inference_steps=3,
                   guidance_scale=2.0, latent_blend=False, scheduler="ddim")  # fmt: skip
    kinds = {name: str(array.dtype) for name, array in sent.items()}
    assert kinds == {
        "image": "uint8", "mask_image": "uint8", "prompt": "object", "seed": "int64", "num_inference_steps": "int32",
        "guidance_scale": "float32", "latent_blend": "bool", "scheduler": "object",
    }  # fmt: skip
    assert sent["prompt"][0] == b"a boat"


def test_a_side_answers_line_by_line(tmp_path: Path) -> None:
    """What a library prints on standard output is no answer."""
    (tmp_path / "doubled.py").write_text(
        "from benchmarks.harness.side import answer\nprint('loading', flush=True)\nanswer(lambda number: 2 * number)\n"
    )
    with side("doubled", environment={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as double:
        assert [double(number) for number in (1, 5)] == [2, 10]


def test_a_side_that_ends_is_an_error() -> None:
    """A comparison would wait for ever."""
    with side("this") as ended, pytest.raises(RuntimeError, match="without an answer"):
        ended(1)


def test_memory_is_that_of_children_and_their_children() -> None:
    """Guards the sum: Triton is a child of gesso-serve, and its Python stubs are children of Triton."""
    below = len(memory())
    grandchild = "print('up', flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    found = memory()
    process.communicate("\n")
    assert len(found) == below + 2
    assert all(one.resident >= one.proportional > 1 for one in found)
    assert len(memory()) == below


def test_every_benchmark_is_listed_with_a_sentence() -> None:
    """Guards `python -m benchmarks`: a module without a main, or without a docstring, would be listed as one."""
    found = package.benchmarks()
    assert {"request", "load", "simulate", "perf_analyzer", "overhead", "cpu", "peers", "gpu", "models"} <= set(found)
    for file in found.values():
        assert package.sentence(file).endswith(".")
        assert "\ndef main(arguments: Sequence[str]) -> int:\n" in file.read_text()


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert package.main(["lod"]) == 2
    assert "load" in capsys.readouterr().err
