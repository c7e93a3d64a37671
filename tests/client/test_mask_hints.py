"""What is wrong with a mask is said in words that mend it."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.files import file_of
from client.tiny import IMAGE, MASK, client
from gesso_client import Client, InvalidRequest
from gesso_client.testing import FakeTransport

HOLE = np.pad(np.ones((2, 3), np.uint8), ((1, 1), (1, 2)))  # [4, 6] of 0 and 1
RED = np.dstack([HOLE * 255, HOLE * 0, HOLE * 0])


def palette(*colours: int) -> Image.Image:
    picture = Image.fromarray(HOLE).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([0, 0, 0, *colours])
    return picture


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros_like(HOLE), "its highest level is 0, and 128 or more is repainted; white .255. is repainted"),
        (file_of(HOLE), "its highest level is 1, .*; as in a mask of 0 and 1; multiply it by 255"),
        (Image.fromarray(HOLE), "its highest level is 1, .* multiply it by 255"),
        (file_of(HOLE * 100), "its highest level is 100, "),
        (file_of(RED), "its highest level is 76, .*; that is how bright its brightest colour is; paint .* white"),
        (RED, "its highest level is 76"),
        (file_of(palette(128, 0, 0)), "its highest level is 38, .* how bright its palette's brightest colour is"),
        (file_of(palette(1, 1, 1)), "its highest level is 1, "),
    ],
)
def test_an_empty_mask_says_how_bright_it_gets(mask: Any, words: str) -> None:
    """Masks of 0 and 1, red ones and palettes were "empty" without a word of what was found."""
    transport = FakeTransport()
    with pytest.raises(InvalidRequest, match=f"mask_image: is empty: {words}"):
        Client(transport=transport).inpaint(IMAGE, mask, "a cat")
    assert transport.requests == []


def test_a_palette_or_a_colour_that_is_bright_is_a_mask() -> None:
    transport = FakeTransport()
    for mask in (palette(255, 255, 255), file_of(palette(0, 255, 0)), Image.fromarray(HOLE * 255).convert("1")):
        Client(transport=transport).inpaint(IMAGE, mask, "a cat")
        assert np.array_equal(transport.requests[-1].inputs["mask_image"] > 127, HOLE == 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_an_unturned_photograph_is_told_so(orientation: int) -> None:
    """fit_mask, which was the advice, would have put it elsewhere."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    gesso = Client(transport=FakeTransport())
    for kind, options in (("PNG", {}), ("JPEG", {}), ("WEBP", {})):
        photo = file_of(Image.new("RGB", (6, 4)), kind, exif=exif, **options)
        with pytest.raises(
            InvalidRequest, match="is 6x4, the image is 4x6 as its EXIF orientation turns it; turn the mask likewise"
        ) as caught:
            gesso.inpaint(photo, HOLE * 255, "a cat")
        assert "fit_mask" not in str(caught.value)
        with pytest.raises(InvalidRequest, match="is 3x2, the image is 4x6; fit_mask=True resizes it"):
            gesso.inpaint(photo, HOLE[:2, :3] * 255, "a cat")


# Numbers of every kind


def test_numbers_of_numpy_are_numbers() -> None:
    gesso, transport = client()
    gesso.inpaint(
        IMAGE,
        MASK,
        np.str_("a cat"),
        seed=np.int64(7),
        num_inference_steps=np.uint8(3),
        guidance_scale=np.float32(0.7),
        strength=np.float16(0.5),
        latent_blend=np.bool_(False),
        sigmas=np.array([2.5, 1.0]),
        deadline=np.float32(9),
        fit_mask=np.bool_(True),
    )  # type: ignore[call-overload]
    request = transport.requests[0]
    sent = {name: array.tolist() for name, array in request.inputs.items() if "image" not in name}
    assert sent["guidance_scale"][0] == np.float32(0.7)
    assert {name: value for name, value in sent.items() if name != "guidance_scale"} == {
        "prompt": [b"a cat"],
        "seed": [7],
        "num_inference_steps": [3],
        "strength": [0.5],
        "latent_blend": [False],
        "sigmas": [2.5, 1.0],
    }
    assert request.deadline is not None
    assert 8.9 < request.deadline <= 9


@pytest.mark.parametrize("seconds", [np.int64(5), np.float64(5), Fraction(5)])
def test_a_deadline_is_any_real_number(seconds: Any) -> None:
    gesso, transport = client()
    gesso.generate("a cat", deadline=seconds)
    assert 4.9 < (transport.requests[0].deadline or 0) <= 5
    with pytest.raises(InvalidRequest, match="is not a number of seconds"):
        gesso.generate("a cat", deadline=Decimal(5))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, np.int64(-1)])
def test_a_seed_of_minus_one_is_drawn(seed: Any) -> None:
    """As in other tools; the server draws, and says which."""
    gesso, transport = client()
    assert gesso.generate("a cat", seed=seed).seed == 7
    assert "seed" not in transport.requests[0].inputs


@pytest.mark.parametrize("seed", [-2, 2**63, -1.0, "-1", True])
def test_other_seeds_out_of_bounds_are_refused(seed: Any) -> None:
    gesso, transport = client()
    with pytest.raises(InvalidRequest) as caught:
        gesso.generate("a cat", seed=seed)
    assert caught.value.field == "seed"
    assert transport.requests == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", "9" * 4_000_000),
        pytest.param("seed", 10**5000, id="digits"),
        ("guidance_scale", list(range(10**6))),
        ("scheduler", "x" * 4_000_000),
        ("latent_blend", "y" * 4_000_000),
        ("timesteps", "7" * 4_000_000),
        ("timesteps", ["7" * 4_000_000]),
        ("deadline", "9" * 4_000_000),
        ("priority", "z" * 4_000_000),
        ("alpha_means", "z" * 4_000_000),
    ],
)
def test_a_long_value_makes_a_short_error(option: str, value: Any) -> None:
    """A base64 string made an error of 4 MB."""
    gesso, _ = client()
    with pytest.raises(Exception, match=option) as caught:
        gesso.inpaint(IMAGE, MASK, "a cat", **{option: value})  # type: ignore[misc]
    assert len(str(caught.value)) < 400
