"""The command line: its files, its lines, its exit codes."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.tiny import MODELS, repainted
from client.until import until
from gesso_client import Client, ConnectionFailed, NotFound, Progress, ServerError, events
from gesso_client.bar import ProgressBar
from gesso_client.cli import main
from gesso_client.save import write_picture
from gesso_client.testing import FakeCall, FakeTransport

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PICTURE = events.Image(Image.fromarray(IMAGE), 7, 0, {})
MASK = np.where(np.eye(20, 30, dtype=bool), 255, 0).astype(np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(IMAGE).save("photo.png")
    Image.fromarray(MASK).save("mask.png")
    return tmp_path


def gesso(line: str, *scripts: list[Any], transport: FakeTransport | None = None) -> tuple[int, FakeTransport]:
    fake = FakeTransport(*scripts, models=MODELS) if transport is None else transport
    return main(line.split(), lambda url: Client(url, transport=fake)), fake


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_photograph_is_inpainted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, transport = gesso("inpaint photo.png --mask mask.png --prompt cat -o out.png --seed 3")
    assert code == 0
    assert np.array_equal(pixels("out.png"), repainted(IMAGE, MASK))
    out, err = capsys.readouterr()
    assert out == "out.png  seed 3\n"
    assert err.splitlines()[-1].startswith("step 4/4")
    assert transport.closed
    assert sorted(path.name for path in here.iterdir()) == ["mask.png", "out.png", "photo.png"]  # nothing half-written


def test_every_flag_has_its_wire_name(here: Path) -> None:
    line = (
        "inpaint photo.png --mask mask.png --prompt cat -o out.png --steps 2 --guidance 5 --strength .5 --negative dog"
    )
    line += " --scheduler euler --feather 3 --crop -1 --no-latent-blend --count 2 --deadline 9"
    line += " --preview-dir p --preview-every 1"
    code, transport = gesso(line)
    request = transport.requests[0]
    scalars = {name: array[0] for name, array in request.inputs.items() if array.shape == (1,)}
    assert scalars == {
        "prompt": b"cat",
        "negative_prompt": b"dog",
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "strength": 0.5,
        "scheduler": b"euler",
        "mask_feather": 3,
        "padding_mask_crop": -1,
        "latent_blend": False,
        "num_images_per_prompt": 2,
        "preview_every": 1,
    }
    assert (code, request.deadline) == (0, 9.0)
    assert sorted(path.name for path in here.glob("out*")) == ["out-0.png", "out-1.png"]
    previews = [f"out-{index}-{step:04}.png" for index in (0, 1) for step in (1, 2)]
    assert sorted(path.name for path in (here / "p").iterdir()) == previews


def test_flags_that_are_left_out_send_nothing(here: Path) -> None:
    _, transport = gesso("inpaint photo.png --mask mask.png --prompt cat -o out.png")
    assert set(transport.requests[0].inputs) == {"prompt", "image", "mask_image"}


def test_the_siblings_and_the_formats(here: Path) -> None:
    assert gesso("transform photo.png --prompt cat -o out.webp --strength 0.5")[0] == 0
    assert np.array_equal(pixels("out.webp"), 255 - IMAGE)  # lossless
    assert gesso("generate --prompt cat -o out.jpg --height 16 --width 24")[0] == 0
    assert Image.open("out.jpg").size == (24, 16)


def test_masks_of_another_size_and_in_the_alpha(here: Path) -> None:
    Image.fromarray(MASK).resize((60, 40)).save("large.png")
    assert gesso("inpaint photo.png --mask large.png --prompt cat -o out.png")[0] == 2
    assert gesso("inpaint photo.png --mask large.png --prompt cat -o out.png --fit-mask")[0] == 0
    Image.fromarray(np.dstack([IMAGE, MASK])).save("holes.png")
    code, transport = gesso("inpaint holes.png --alpha-means keep --prompt cat -o out.png")
    assert code == 0
    assert np.array_equal(transport.requests[0].inputs["mask_image"], 255 - MASK)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("inpaint photo.png --mask mask.png --prompt cat -o out.png --guidance 99", "guidance_scale: 99.0 is above"),
        ("inpaint photo.png --mask mask.png --prompt cat -o out.png --scheduler foo", "scheduler: 'foo' is not one of"),
        ("inpaint photo.png --mask nope.png --prompt cat -o out.png", "mask_image: cannot read 'nope.png'"),
        ("inpaint photo.png --prompt cat -o out.png", "mask_image: missing; give --mask"),
        ("inpaint photo.png --masks . --prompt cat -o out.png", "mask_image: --masks is for a folder"),
        ("inpaint photo.png --mask mask.png --prompt cat -o out.xyz", "output: 'out.xyz' has no extension"),
        (
            "inpaint photo.png --mask mask.png --prompt cat -o nodir/out.png",
            "output: the folder 'nodir' does not exist",
        ),
        ("inpaint photo.png --mask mask.png --prompt cat -o out.png --preview-every 2", "preview_every: needs"),
        ("inpaint . --mask mask.png --prompt cat -o out", "mask_image: --mask is for one photograph"),
        ("inpaint . --prompt cat -o out", "mask_image: a folder takes either"),
        ("inpaint . --masks nodir --prompt cat -o out", "image: 'nodir' is not a folder"),
        ("generate --prompt cat -o out.png --model nope", "model: unknown model 'nope'"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    code, transport = gesso(line)
    out, err = capsys.readouterr()
    assert (code, out, transport.requests) == (2, "", [])
    assert err.startswith(f"gesso: {words}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    ["", "paint", "generate -o out.png", "generate --prompt cat -o out.png --steps x", "inpaint . --in-flight 0"],
)
def test_wrong_usage_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        gesso(line)
    err = capsys.readouterr().err
    assert (caught.value.code, err.count("\n"), err[:7]) == (2, 1, "gesso: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [(ServerError("engine\non fire"), 1), (ConnectionFailed("gone"), 1), (NotFound("x", "adapter"), 2)],
)
def test_the_servers_failures_have_their_codes(
    here: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert gesso("generate --prompt cat -o out.png", [error])[0] == code
    assert capsys.readouterr().err == f"gesso: {' '.join(str(error).split())}\n"
    assert not Path("out.png").exists()


def test_an_interrupt_cancels_the_job(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(bar: ProgressBar, progress: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "show", interrupted)
    code, transport = gesso(
        "generate --prompt cat -o out.png", [Progress(1, 1, 0), lambda call: call.cancelled.wait(5)]
    )
    assert code == 130
    assert capsys.readouterr().err == "gesso: cancelled\n"
    assert until(transport.calls[0].cancelled.is_set)


# A folder


@pytest.fixture
def folder(here: Path) -> Path:
    for name in ("photos", "masks"):
        (here / name).mkdir()
    for index in range(6):
        Image.fromarray(IMAGE + index).save(f"photos/{index}.png")
        Image.fromarray(MASK).save(f"masks/{index}.bmp")
    return here


def test_a_folder_is_inpainted_each_with_its_own_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "notes.txt").write_text("not a picture")
    code, transport = gesso("inpaint photos --masks masks --prompt cat -o out/deep")
    assert (code, len(transport.requests)) == (0, 6)
    assert all(np.array_equal(pixels(f"out/deep/{index}.png"), repainted(IMAGE + index, MASK)) for index in range(6))
    assert sorted(capsys.readouterr().out.splitlines()) == [f"out/deep/{index}.png  seed 7" for index in range(6)]


def test_a_bad_one_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "1.png").write_bytes(b"junk")
    (folder / "masks" / "2.bmp").unlink()
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


def test_models_are_shown_with_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert gesso("models")[0] == 0
    out = capsys.readouterr().out
    assert "inpaint  (tiny, stable-diffusion)" in out
    line = next(line for line in out.splitlines() if "guidance_scale" in line)
    assert line.split() == ["guidance_scale", "float", "default", "7.5", "0.0", "..", "50.0"]
    assert "ddim, euler" in out
    assert gesso("models", transport=FakeTransport(models={}))[0] == 0
    assert capsys.readouterr().out == "no gesso model is ready\n"


# Files and the bar


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
