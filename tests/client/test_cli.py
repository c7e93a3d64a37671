"""The command line: its files, its lines, its exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.command_line import IMAGE, MASK, gesso, pixels
from client.tiny import repainted
from client.until import until
from gesso_client import ConnectionFailed, NotFound, Progress, ServerError
from gesso_client.bar import ProgressBar
from gesso_client.testing import FakeTransport


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


def test_a_mask_can_be_inverted_and_previews_small(here: Path) -> None:
    line = "inpaint photo.png --mask mask.png --prompt cat -o out.png --invert-mask --preview-dir p --preview-every 2"
    line += " --preview-size 15"
    code, transport = gesso(line)
    assert (code, transport.requests[0].inputs["mask_invert"].tolist()) == (0, [True])
    assert np.array_equal(pixels("out.png")[MASK > 0], IMAGE[MASK > 0])
    assert {pixels(path).shape for path in (here / "p").iterdir()} == {(10, 15, 3)}


def test_the_siblings_and_the_formats(here: Path) -> None:
    assert gesso("transform photo.png --prompt cat -o out.webp --strength 0.5")[0] == 0
    assert np.array_equal(pixels("out.webp"), 255 - IMAGE)  # lossless
    assert gesso("generate --prompt cat -o out.jpg --height 16 --width 24")[0] == 0
    with Image.open("out.jpg") as picture:
        assert picture.size == (24, 16)


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


def test_models_are_shown_with_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert gesso("models")[0] == 0
    out = capsys.readouterr().out
    assert "inpaint  (tiny, stable-diffusion)" in out
    line = next(line for line in out.splitlines() if "guidance_scale" in line)
    assert line.split() == ["guidance_scale", "float", "default", "7.5", "0.0", "..", "50.0"]
    assert "ddim, euler" in out
    assert gesso("models", transport=FakeTransport(models={}))[0] == 0
    assert capsys.readouterr().out == "no gesso model is ready\n"
