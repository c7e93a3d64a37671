"""The command line with a fake server behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from client.tiny import MODELS
from gesso_client import Client
from gesso_client.cli import main
from gesso_client.testing import FakeTransport

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
MASK = np.where(np.eye(20, 30, dtype=bool), 255, 0).astype(np.uint8)


def gesso(line: str, *scripts: list[Any], transport: FakeTransport | None = None) -> tuple[int, FakeTransport]:
    fake = FakeTransport(*scripts, models=MODELS) if transport is None else transport
    return main(line.split(), lambda url: Client(url, transport=fake)), fake


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path))
