"""Which photographs and masks belong together, and what an earlier run has finished."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.command_line import IMAGE, MASK, gesso, pixels
from client.tiny import repainted

LINE = "inpaint photos --masks masks --prompt cat -o out"
CAFE = "Caf\u00e9 \u304c"  # a letter with an accent, and a syllable with a voicing mark


@pytest.fixture
def folder(here: Path) -> Path:
    for name in ("photos", "masks"):
        Path(name).mkdir()
    for stem in "abc":
        pair(stem, stem)
    return here


def pair(photo: str, mask: str) -> None:
    Image.fromarray(IMAGE).save(f"photos/{photo}.png")
    Image.fromarray(MASK).save(f"masks/{mask}.png")


@pytest.mark.parametrize("other", ["a.jpg", "a.PNG", "a.webp"])
def test_two_masks_of_one_photograph_are_refused_with_both_names(
    folder: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    """Haoming02/sd-webui-forge-classic#1033: one of them was picked, in silence."""
    (folder / "masks" / other).write_bytes((folder / "masks" / "a.png").read_bytes())
    code, transport = gesso(LINE)
    err = capsys.readouterr().err
    assert (code, transport.requests, err.count("\n")) == (2, [], 1)
    assert "mask_image" in err
    assert f"masks/{other}" in err
    assert "masks/a.png" in err
    assert not Path("out").exists()


def test_two_masks_whose_names_differ_only_in_how_letters_are_composed_are_two(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(CAFE, unicodedata.normalize("NFC", CAFE))
    pair(CAFE, unicodedata.normalize("NFD", CAFE))
    assert gesso(LINE)[0] == 2
    assert "are masks of one photograph" in capsys.readouterr().err


@pytest.mark.parametrize(("photo", "mask"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_from_a_mac_are_the_same_names(folder: Path, photo: str, mask: str) -> None:
    pair(unicodedata.normalize(photo, CAFE), unicodedata.normalize(mask, CAFE))  # type: ignore[arg-type]
    code, transport = gesso(LINE)
    assert (code, len(transport.requests)) == (0, 4)
    assert Path("out", unicodedata.normalize(photo, CAFE) + ".png").exists()  # type: ignore[arg-type]


def test_two_names_that_are_one_file_where_the_outputs_go_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that does not mind the case of letters the second was written over the first."""
    pair("A", "A")
    assert gesso(LINE)[0] == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["A.png", "a.png", "b.png", "c.png"]
    monkeypatch.setattr("gesso_client.folder.minds_case", lambda folder: False)
    code, transport = gesso(LINE)
    assert (code, len(transport.requests)) == (3, 2)
    assert capsys.readouterr().err.count("two pictures would both become") == 2


def test_what_a_mac_leaves_behind_is_no_photograph(folder: Path) -> None:
    for name in ("photos", "masks"):
        for junk in (".DS_Store", "._a.png", "._d.jpg", ".gesso-0123.part"):
            Path(name, junk).write_bytes(b"\0\x05\x16\x07")
    code, transport = gesso(LINE)
    assert (code, len(transport.requests)) == (0, 3)


def test_a_folder_goes_on_where_it_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gesso(LINE)[0] == 0
    finished = Path("out/a.png").stat()
    half = Path("out/b.png").read_bytes()
    Path("out/b.png").write_bytes(half[: len(half) // 2])  # by a program that does not rename
    Path("out/c.png").unlink()
    capsys.readouterr()
    code, transport = gesso(f"{LINE} --resume")
    out, err = capsys.readouterr()
    assert (code, len(transport.requests)) == (0, 2)
    assert sorted(out.splitlines()) == ["out/b.png  seed 7", "out/c.png  seed 7"]
    assert err == "gesso: photos/a.png: skipped, out/a.png is there\n"
    assert Path("out/a.png").stat().st_mtime_ns == finished.st_mtime_ns
    assert all(np.array_equal(pixels(f"out/{stem}.png"), repainted(IMAGE, MASK)) for stem in "abc")
    code, transport = gesso(f"{LINE} --resume")
    assert (code, transport.requests) == (0, [])


@pytest.mark.parametrize("junk", [b"", b"\x89PNG\r\n\x1a\n", b"\0" * 500])
def test_what_is_no_picture_is_not_finished(folder: Path, junk: bytes) -> None:
    Path("out").mkdir()
    Path("out/a.png").write_bytes(junk)
    assert len(gesso(f"{LINE} --resume")[1].requests) == 3


def test_of_several_pictures_all_have_to_be_there(folder: Path) -> None:
    assert gesso(f"{LINE} --count 2")[0] == 0
    Path("out/b-1.png").unlink()
    assert len(gesso(f"{LINE} --count 2 --resume")[1].requests) == 1
    assert len(gesso(f"{LINE} --count 3 --resume")[1].requests) == 3
    assert len(gesso(LINE)[1].requests) == 3  # it was not asked to


def test_the_servers_warnings_are_told_once_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gesso_client import events

    said = {"warnings": ["'BREAK' is read as a word", "the mask is faint"]}
    picture = Image.fromarray(repainted(IMAGE, MASK))
    script = [events.Image(picture, 7 + index, index, said) for index in range(2)]
    assert gesso("inpaint photos/a.png --mask masks/a.png --prompt cat -o out.png --count 2", script)[0] == 0
    told = [f"warning: {text}" for text in said["warnings"]]
    assert capsys.readouterr().err.splitlines() == [f"gesso: {text}" for text in told]
    Path("photos/b.png").unlink()
    Path("photos/c.png").unlink()
    assert gesso(LINE, [script[0]])[0] == 0
    assert capsys.readouterr().err.splitlines() == [f"gesso: photos/a.png: {text}" for text in told]


def test_a_seed_of_other_tools_draws_one(folder: Path) -> None:
    code, transport = gesso("inpaint photos/a.png --mask masks/a.png --prompt cat -o out.png --seed -1")
    assert (code, "seed" in transport.requests[0].inputs) == (0, False)
