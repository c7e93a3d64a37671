"""The command line on a folder of photographs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.command_line import IMAGE, MASK, gesso, pixels
from client.tiny import repainted
from client.until import until
from gesso_client import ConnectionFailed, events
from gesso_client.testing import FakeCall, FakeTransport

PICTURE = events.Image(Image.fromarray(IMAGE), 7, 0, {})


@pytest.fixture
def folder(here: Path) -> Path:
    for name in ("photos", "masks"):
        (here / name).mkdir()
    for index in range(6):
        Image.fromarray(IMAGE + index).save(f"photos/{index}.png")
        Image.fromarray(MASK).save(f"masks/{index}.webp", lossless=True)
    return here


def test_a_folder_is_inpainted_each_with_its_own_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "notes.txt").write_text("not a picture")
    code, transport = gesso("inpaint photos --masks masks --prompt cat -o out/deep")
    assert (code, len(transport.requests)) == (0, 6)
    assert all(np.array_equal(pixels(f"out/deep/{index}.png"), repainted(IMAGE + index, MASK)) for index in range(6))
    assert sorted(capsys.readouterr().out.splitlines()) == [f"out/deep/{index}.png  seed 7" for index in range(6)]


def test_a_bad_one_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "1.png").write_bytes(b"junk")
    (folder / "masks" / "2.webp").unlink()
    Image.fromarray(IMAGE).save("photos/3.jpg")  # 3.png and 3.jpg would both become 3.png
    code, _ = gesso("inpaint photos --masks masks --prompt cat -o out")
    assert code == 3
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["0.png", "4.png", "5.png"]
    errors = sorted(capsys.readouterr().err.splitlines())
    assert [line.split(": ")[1:3] for line in errors] == [
        ["photos/1.png", "image"],
        ["photos/2.png", "mask_image"],
        ["photos/3.jpg", "image"],
        ["photos/3.png", "image"],
    ]


def test_a_folder_keeps_several_in_flight_and_no_more(folder: Path) -> None:
    barrier = threading.Barrier(3, timeout=5)
    running = [0, 0]  # now, at most
    lock = threading.Lock()

    def work(call: FakeCall) -> None:
        with lock:
            running[0] += 1
            running[1] = max(running)
        barrier.wait()
        with lock:
            running[0] -= 1

    for index in range(6):
        Image.new("L", (30, 20), 255).save(f"masks/{index}.webp")  # PICTURE is none of the photographs
    code, _ = gesso("inpaint photos --masks masks --prompt cat -o out --in-flight 3", *[[work, PICTURE]] * 6)
    assert (code, running[1]) == (0, 3)


def test_a_folder_without_pictures_and_one_without_a_server_fail_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert gesso("inpaint empty --masks masks --prompt cat -o out")[0] == 2

    class Nobody(FakeTransport):
        def describe(self, model: str) -> str | None:
            raise ConnectionFailed("nobody there")

    assert gesso("inpaint photos --masks masks --prompt cat -o out", transport=Nobody())[0] == 1
    assert capsys.readouterr().err.splitlines()[-1] == "gesso: nobody there"


def test_an_interrupt_stops_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_completed(futures: Any) -> Any:
        assert until(lambda: len(transport.calls) == 4)
        raise KeyboardInterrupt

    monkeypatch.setattr("gesso_client.folder.as_completed", as_completed)
    stopped: list[bool] = []
    hold = [lambda call: stopped.append(call.cancelled.wait(5)), PICTURE]
    transport = FakeTransport(*[hold] * 6)
    assert gesso("inpaint photos --masks masks --prompt cat -o out", transport=transport)[0] == 130
    assert stopped == [True] * 4
    assert len(transport.calls) == 4  # the two that waited were never sent
