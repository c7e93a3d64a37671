"""Outputs that cannot be written are refused before anything runs, and no finished picture is lost (Pillow#8321)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.command_line import IMAGE, MASK, gesso, pixels
from client.tiny import repainted
from gesso_client import ConnectionFailed, Preview, Progress, events
from gesso_client.errors import InvalidRequest
from gesso_client.output import check_fits, check_place
from gesso_client.save import write_picture

ONE = "inpaint photo.png --mask mask.png --prompt cat -o"
PICTURES = [events.Image(Image.fromarray(repainted(IMAGE, MASK)), 7 + index, index, {}) for index in range(3)]


@pytest.fixture
def spare(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = here / "spare"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("name", ["out.ico", "out.gif", "out.pdf", "out.eps", "out.xbm", "out.icns", "out", "out.xyz"])
def test_a_format_that_changes_pictures_is_refused(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """python-pillow/Pillow#8321: an icon of 64 x 48 was written, status 0."""
    code, transport = gesso(f"{ONE} {name}")
    assert (code, transport.requests) == (2, [])
    assert capsys.readouterr().err.startswith(f"gesso: output: '{name}' has no extension of a format that is written")


@pytest.mark.parametrize(("name", "side"), [("long.webp", 16_383), ("long.jpg", 65_500)])
def test_a_picture_too_large_for_its_format_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, side: int
) -> None:
    """python-pillow/Pillow#8321: after all steps a traceback, and the picture was lost."""
    Image.new("RGB", (side + 1, 1)).save("long.png")
    code, transport = gesso(f"transform long.png --prompt cat -o {name}")
    assert (code, transport.requests) == (2, [])
    assert f"a side of a {name[5:].upper().replace('JPG', 'JPEG')} has at most {side}" in capsys.readouterr().err
    Image.new("RGB", (side, 1)).save("long.png")
    assert gesso(f"transform long.png --prompt cat -o {name}")[0] == 0
    with Image.open(name) as picture:
        assert picture.size == (side, 1)
    with pytest.raises(InvalidRequest, match="at most"):
        check_fits(Path("x.webp"), (8, 16_384))


def test_the_size_of_a_picture_from_text_is_known_before_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, transport = gesso("generate --prompt cat -o out.webp --height 17000 --width 8")
    assert (code, transport.requests) == (2, [])
    assert "output: the picture for 'out.webp' is 8x17000" in capsys.readouterr().err


def test_transparency_that_a_jpeg_cannot_hold_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.dstack([IMAGE, MASK])).save("photo.png")
    code, transport = gesso(f"{ONE} out.jpg")
    assert (code, transport.requests) == (2, [])
    assert "transparent in places, and a JPEG cannot hold that" in capsys.readouterr().err
    Image.fromarray(np.dstack([IMAGE, np.full_like(MASK, 255)])).save("photo.png")
    assert gesso(f"{ONE} out.jpg")[0] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nodir/out.png", "the folder 'nodir' does not exist"),
        ("dir.png", "'dir.png' is a folder"),
        ("mask.png/out.png", "the folder 'mask.png' does not exist"),
        ("full.png", "'full.png' is no regular file"),
        ("pipe.png", "'pipe.png' is no regular file"),
        ("dangling.png", "the folder"),
        ("circle.png", "'circle.png' is no regular file"),
        ("kept.png", "'kept.png' is read-only"),
        (f"{'x' * 300}.png", "'xxx"),
        ("/proc/out.png", "'/proc/out.png' cannot be written: "),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    Path("dir.png").mkdir()
    Path("full.png").symlink_to("/dev/full")
    Path("dangling.png").symlink_to("nodir/x.png")
    Path("circle.png").symlink_to("circle.png")
    os.mkfifo("pipe.png")
    Image.fromarray(IMAGE).save("kept.png")
    Path("kept.png").chmod(0o444)
    code, transport = gesso(f"{ONE} {name}")
    err = capsys.readouterr().err
    assert (code, transport.requests, err.count("\n")) == (2, [], 1)
    assert err.startswith(f"gesso: output: {words}")
    assert not list(here.glob(".gesso*"))


def test_a_full_disk_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open
    with monkeypatch.context() as full:
        full.setattr(Path, "open", lambda path, mode: opened(Path("/dev/full"), "wb"))
        with pytest.raises(InvalidRequest, match="cannot be written: No space left on device"):
            check_place(Path("out.png"))
    usage = type(shutil.disk_usage("."))(1000, 900, 100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InvalidRequest, match="its disk has 100 bytes left"):
        check_fits(Path("out.png"), (1000, 1000))
    check_fits(Path("out.png"), (8, 8))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), ValueError("encoder error -2"), MemoryError()]
)
def test_a_finished_picture_that_cannot_be_written_is_written_elsewhere(
    spare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """python-pillow/Pillow#8321: whatever goes wrong after all steps, the picture is in a file that is named."""
    write = write_picture

    def writing(image: Image.Image, path: Path, **metadata: Any) -> None:
        if path.parent != spare:
            raise error
        write(image, path, **metadata)

    monkeypatch.setattr("gesso_client.save.write_picture", writing)
    code, _ = gesso(f"{ONE} out.png")
    (rescued,) = spare.iterdir()
    assert np.array_equal(pixels(rescued), repainted(IMAGE, MASK))
    out, err = capsys.readouterr()
    assert (code, out) == (2, f"{rescued}  seed 7\n")
    assert err.splitlines()[-1].startswith("gesso: out.png cannot be written (")
    assert err.splitlines()[-1].endswith(f"the picture is in {rescued}")


def test_without_room_for_temporary_files_it_is_written_here(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    Path("out").mkdir()

    def gone(call: object) -> None:
        Path("out").rmdir()

    assert gesso(f"{ONE} out/x.png", [gone, PICTURES[0]])[0] == 2
    (rescued,) = here.glob("gesso-x-*.png")
    assert np.array_equal(pixels(rescued), repainted(IMAGE, MASK))
    assert str(rescued) in capsys.readouterr().err


def test_one_that_is_lost_everywhere_does_not_stop_the_next(
    spare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = write_picture, []

    def writing(image: Image.Image, path: Path, **metadata: Any) -> None:
        calls.append(path)
        if len(calls) <= 3:
            raise OSError(errno.EIO, "Input/output error")
        write(image, path, **metadata)

    monkeypatch.setattr("gesso_client.save.write_picture", writing)
    assert gesso(f"{ONE} out.png --count 2", PICTURES[:2])[0] == 2
    out, err = capsys.readouterr()
    assert out == "out-1.png  seed 8\n"
    assert "out-0.png cannot be written (Input/output error), nor any other file: it is lost" in err


def test_a_name_may_be_as_long_as_the_system_takes(tmp_path: Path) -> None:
    """The temporary name beside it was longer."""
    write_picture(Image.fromarray(IMAGE), tmp_path / f"{'n' * 251}.png")
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_a_link_stays_one_and_its_file_is_written(here: Path) -> None:
    Path("place").mkdir()
    Path("out.png").symlink_to("place/real.png")
    assert gesso(f"{ONE} out.png")[0] == 0
    assert Path("out.png").is_symlink()
    assert np.array_equal(pixels("place/real.png"), repainted(IMAGE, MASK))


def test_a_preview_that_cannot_be_written_does_not_cost_the_picture(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(call: object) -> None:
        Path("p").rmdir()

    rough = Image.fromarray(IMAGE)
    script = [gone, Progress(1, 2, 0), Preview(rough, 1, 2, 0), Preview(rough, 2, 2, 0), PICTURES[0]]
    assert gesso(f"{ONE} out.png --preview-dir p --preview-every 1", script)[0] == 0
    assert np.array_equal(pixels("out.png"), repainted(IMAGE, MASK))
    assert capsys.readouterr().err.count("gesso: no more previews: ") == 1


def test_pictures_that_were_there_before_an_error_are_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photos", "masks"):
        Path(name).mkdir()
    Image.fromarray(IMAGE).save("photos/a.png")
    Image.fromarray(MASK).save("masks/a.png")
    script = [*PICTURES[:2], ConnectionFailed("the connection broke")]
    assert gesso("inpaint photos --masks masks --prompt cat -o out --count 3", script)[0] == 3
    assert sorted(path.name for path in Path("out").iterdir()) == ["a-0.png", "a-1.png"]
    out, err = capsys.readouterr()
    assert out == "out/a-0.png  seed 7\nout/a-1.png  seed 8\n"
    assert err == "gesso: photos/a.png: the connection broke\n"
    assert gesso(f"{ONE} out.png --count 3", script)[0] == 1
    assert sorted(path.name for path in here.glob("out-*")) == ["out-0.png", "out-1.png"]


@pytest.mark.parametrize("line", ["inpaint photo.png --mask mask.png --prompt cat -o out.png --count 3", "models"])
def test_nobody_who_stops_reading_stops_the_work(here: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert gesso(line, PICTURES)[0] == 0
    assert len(list(here.glob("out-*.png"))) == (3 if "count" in line else 0)


def test_a_list_that_cannot_be_written_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert gesso("models")[0] == 2


@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_a_bar_that_cannot_be_drawn_stops_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, stderr: str | None
) -> None:
    with contextlib.suppress(OSError), open(stderr or os.devnull, "w") as stream:  # closing it fails, too
        monkeypatch.setattr("sys.stderr", stream if stderr else None)
        assert gesso(f"{ONE} out.png")[0] == 0
    assert np.array_equal(pixels("out.png"), repainted(IMAGE, MASK))


def test_names_of_pictures_that_could_not_be_said_are_a_failure(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert gesso(f"{ONE} out.png --count 3", PICTURES)[0] == 2
    assert len(list(here.glob("out-*.png"))) == 3


def test_a_terminal_without_the_letters_of_a_name_gets_escapes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("said", "w", encoding="ascii") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert gesso(f"{ONE} 日本.png --count 2", PICTURES[:2])[0] == 0
    assert Path("said").read_text().count("seed") == 2
