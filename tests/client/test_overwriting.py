"""No command overwrites what it was given (AUTOMATIC1111/stable-diffusion-webui#1195)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.command_line import IMAGE, MASK, gesso
from gesso_client.errors import InvalidRequest
from gesso_client.output import check_spares

ONE = "inpaint photo.png --mask mask.png --prompt cat -o"


@pytest.fixture
def folders(here: Path) -> Path:
    for name in ("photos", "masks"):
        (here / name).mkdir()
    for stem in "ab":
        Image.fromarray(IMAGE).save(f"photos/{stem}.png")
        Image.fromarray(MASK).save(f"masks/{stem}.png")
    return here


def refused(line: str, here: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, transport = gesso(line)
    err = capsys.readouterr().err
    assert (code, transport.requests, err.count("\n")) == (2, [], 1)
    assert err.startswith(f"gesso: output: {words}")
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "line",
    [
        f"{ONE} photo.png",
        f"{ONE} ./photo.png",
        f"{ONE} mask.png",
        f"{ONE} soft.png",
        f"{ONE} hard.png",
        "inpaint out-0.png --mask mask.png --prompt cat -o out.png --count 2",
        "transform photo.png --prompt cat -o photo.png",
    ],
)
def test_an_output_is_not_an_input(here: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    """By its own name, another path to it, a link of either kind, or the number that several pictures get."""
    Path("soft.png").symlink_to("photo.png")
    os.link("photo.png", "hard.png")
    Image.fromarray(IMAGE).save("out-0.png")
    refused(line, here, "", capsys)


@pytest.mark.parametrize("output", ["photos", "photos/", "./masks", "link"])
def test_a_folder_is_not_written_into_itself(folders: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    """AUTOMATIC1111/stable-diffusion-webui#1195: originals were overwritten, status 0."""
    Path("link").symlink_to("photos")
    refused(f"inpaint photos --masks masks --prompt cat -o {output}", folders, f"'{output.strip('./')}' is", capsys)


def test_links_from_the_folder_of_outputs_to_photographs_are_seen(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    Path("out/b.png").symlink_to("../masks/a.png")
    refused("inpaint photos --masks masks --prompt cat -o out", folders, "'out/b.png' is the input", capsys)


def test_photographs_beside_the_folder_of_outputs_are_no_outputs(folders: Path) -> None:
    """Its parent, and a folder inside it, are other folders; a second run does not take outputs for photographs."""
    for _ in range(2):
        code, transport = gesso("inpaint photos --masks masks --prompt cat -o photos/out")
        assert (code, len(transport.requests)) == (0, 2)
    assert gesso("inpaint photos --masks masks --prompt cat -o .")[0] == 0


def test_names_that_a_file_system_takes_for_the_same_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a disk that minds neither the case of letters nor how they are composed: it answers both names."""
    real = tmp_path / "Caf\u00e9.png"
    real.write_bytes(b"a photograph")
    plain, stat = os.stat(real), Path.stat
    names = {"cafe\u0301.png": plain}
    monkeypatch.setattr(Path, "stat", lambda path, **options: names.get(path.name) or stat(path, **options))
    with pytest.raises(InvalidRequest, match="is the input"):
        check_spares([tmp_path / "cafe\u0301.png"], [real])


def test_previews_are_written_over_no_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(IMAGE).save("out-0-0001.png")
    line = "inpaint out-0-0001.png --mask mask.png --prompt cat -o out.png --preview-dir . --preview-every 1"
    refused(line, here, "'out-0-0001.png' is the input", capsys)


def test_a_preview_that_becomes_an_input_meanwhile_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p").mkdir()
    line = f"{ONE} out.png --preview-dir p --preview-every 1 --steps 2"

    def link(call: object) -> None:
        Path("p/out-0-0001.png").symlink_to("../photo.png")

    from gesso_client import Preview, Progress, events

    rough, picture = Image.fromarray(255 - IMAGE), events.Image(Image.fromarray(IMAGE), 7, 0, {})
    code, _ = gesso(line, [link, Progress(1, 2, 0), Preview(rough, 1, 2, 0), picture])
    assert (code, Path("out.png").exists()) == (0, True)
    assert np.array_equal(np.asarray(Image.open("photo.png")), IMAGE)
    assert "no more previews: output: 'p/out-0-0001.png' is the input" in capsys.readouterr().err
