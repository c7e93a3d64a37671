"""What the command line writes: files, and a progress bar."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gesso_client import Progress
from gesso_client.bar import ProgressBar
from gesso_client.save import write_picture

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"the old one")

    def full(self: Any, file: Any, **options: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_picture(Image.fromarray(IMAGE), target)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.png", b"the old one")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_redraws_itself_on_a_terminal_and_writes_few_lines_elsewhere() -> None:
    for out in (Terminal(), io.StringIO()):
        bar = ProgressBar(out, clock=lambda: 0.0)
        for step in range(1, 201):
            bar.show(Progress(step, 200, 0))
            bar.show(Progress(step, 200, 1))
        bar.close()
        bar.close()
        lines = out.getvalue().splitlines()
        if out.isatty():
            assert out.getvalue().endswith(f"\r[{'#' * 30}] 200/200  0.0 s\n")
            assert out.getvalue().count("\r") == 200
        else:
            assert lines == [f"step {step}/200  0.0 s" for step in range(20, 201, 20)]
