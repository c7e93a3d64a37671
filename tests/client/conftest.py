"""A folder with a photograph and its mask, for the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from client.command_line import IMAGE, MASK


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGE).save("photo.png")
    Image.fromarray(MASK).save("mask.png")
    return tmp_path
