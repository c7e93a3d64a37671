"""Warnings in the report: nothing in a request is ignored, or read as something else, in silence."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from backend.fakes import FakeTokenizer, fake_bundle, hole, inputs, picture
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion.families import FAMILIES
from gesso_backend.kinds.diffusion.prepared import Prepared, prepare
from gesso_backend.kinds.diffusion.request import parse
from gesso_backend.model.parameters import Parameter
from gesso_backend.pixels.mask import distance

LONG = {name: Parameter("string", default="", max_bytes=20000) for name in ("prompt", "negative_prompt")}
BUNDLE = dataclasses.replace(fake_bundle(), parameters={**fake_bundle().parameters, **LONG})


def prepared_of(**values: Any) -> Prepared:
    request = parse(inputs(seed=values.pop("seed", 1), **values), BUNDLE)
    return prepare(request, BUNDLE, FAMILIES[BUNDLE.family], {"text_encoder": FakeTokenizer()})  # type: ignore[dict-item]


def hints_of(**values: Any) -> list[str]:
    return [hint for hint in prepared_of(**values).warnings if "over the limit" not in hint]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a fox BREAK a hat", "'BREAK'"),
        ("a fox AND a hat", "'AND'"),
        ("a fox <lora:ink:0.8>, <hypernet:old:1>", "'<lora:ink:0.8>', '<hypernet:old:1>'"),
        ("a {red|blue} fox", "'{red|blue}'"),
        ("a [red|blue] fox", "'[red|blue]'"),
        ("a [fox:hat:0.5] here", "'[fox:hat:0.5]'"),
        ("a [hat:10] here, __animal__", "'[hat:10]', '__animal__'"),
        ("a fox, embedding:easy", "'embedding:easy'"),
        ("a BREAK b BREAK c", "'BREAK'"),
        (" ".join(f"<lora:{n}>" for n in range(9)), ", ".join(f"'<lora:{n}>'" for n in range(5)) + ", ..."),
    ],
)
def test_commands_of_other_tools_are_told_to_be_words(prompt: str, words: str) -> None:
    """Guards the user whose LoRA does nothing: BREAK, AND, <lora:..> and the like were read as words in silence."""
    assert hints_of(prompt=prompt) == [f"prompt: read as words, not as commands of other tools: {words}"]
    assert hints_of(prompt="a", negative_prompt=prompt)[0].startswith("negative_prompt: read as words")


@pytest.mark.parametrize(
    "prompt",
    ["a fox and a hat", "CATS AND DOGS", "breakfast", "(a fox)", "a [dull] fox", "at 10:30, 50% < 60%", "<cat>"],
)
def test_prose_is_not_warned_of(prompt: str) -> None:
    """Guards against warnings that nobody reads any more."""
    assert hints_of(prompt=prompt) == []


def test_weights_that_are_off_are_told() -> None:
    """Guards `(word:1.3)`, which is emphasis in most tools and here only when it is asked for."""
    (hint,) = hints_of(prompt="a (red:1.3) fox")
    assert hint == "prompt: prompt_weighting is off, so brackets and weights are read as words: '(red:1.3)'"
    assert hints_of(prompt="a (red:1.3) fox", prompt_weighting=True) == []


@pytest.mark.parametrize("letter", ["{", "|", "[:", "<lora:", "(", "(:", "_", "[|", "{|", "(:1"])
def test_a_prompt_of_brackets_is_read_in_no_time(letter: str) -> None:
    """Guards the preparing thread against a pattern that backtracks: this would take hours."""
    hints_of(prompt=letter * (16000 // len(letter)), long_prompt=False)


def test_an_empty_prompt_is_told() -> None:
    """Guards a prompt that a script lost on its way."""
    assert hints_of(prompt=" ") == ["prompt is empty: nothing says what is to be painted"]


def test_what_guidance_of_one_ignores_is_told() -> None:
    """Guards the negative prompt of a turbo model: it was dropped without a word."""
    assert hints_of(prompt="a", negative_prompt="b", guidance_rescale=0.5, guidance_scale=1.0) == [
        "ignored without guidance (a scale above 1): negative_prompt, guidance_rescale"
    ]
    assert hints_of(prompt="a", negative_prompt="b") == []
    assert hints_of(prompt="a", negative_prompt_strength=0.5) == [
        "negative_prompt_strength does nothing without a negative_prompt"
    ]


def test_previews_that_never_come_and_bits_of_a_seed_are_told() -> None:
    """Guards the rest of what was ignored in silence."""
    assert hints_of(preview_every=3) == ["preview_every of 3: no preview falls before the last of 3 steps"]
    assert hints_of(preview_every=2) == []
    assert hints_of(seed=2**32 + 7) == [f"only the low 32 bits of a seed count: {2**32 + 7} paints as 7"]
    assert hints_of(seed=2**32 - 1) == []


# Masks


def blob(height: int, width: int) -> npt.NDArray[np.uint8]:
    mask = np.zeros((64, 64), np.uint8)
    mask[10 : 10 + height, 20 : 20 + width] = 255
    return mask


def masked(mask: npt.NDArray[np.uint8], **values: Any) -> list[str]:
    return hints_of(image=picture(*mask.shape), mask_image=mask, **values)


def test_a_feather_wider_than_the_mask_is_told() -> None:
    """Haoming02/sd-webui-forge-classic#1033: all steps were run, and next to nothing changed."""
    assert masked(blob(30, 30), mask_feather=10) == []
    assert masked(blob(5, 40), mask_feather=20) == [
        "a mask_feather of 20 is wider than the mask: what is painted shows by 14.1% at most"
    ]
    with pytest.raises(InvalidRequest, match="mask_feather: 256 is so much wider than the mask that nothing would"):
        masked(np.where(blob(1, 1) > 0, np.uint8(128), np.uint8(0)), mask_feather=256)


def test_a_part_that_is_thinner_than_the_feather_is_told() -> None:
    """The same, of a scratch beside a large hole."""
    mask = blob(30, 30)
    mask[2, :] = 255
    (hint,) = masked(mask, mask_feather=8)
    assert hint == "parts of the mask are thinner than a mask_feather of 8: 64 pixels of them hardly change"


def test_a_stray_pixel_that_makes_the_crop_large_is_told() -> None:
    """AUTOMATIC1111/stable-diffusion-webui#10644, of one white pixel in the corner."""
    mask = np.zeros((600, 700), np.uint8)
    mask[400:440, 500:540] = 255
    assert masked(mask) == []
    mask[3, 5] = 255
    assert masked(mask)[0] == (
        "the crop is 560x456, not 72x72, for 1 of the mask's pixels, far from the rest, as at row 3, column 5"
    )
    assert len(masked(mask, padding_mask_crop=-1)) == 1  # the whole picture was asked for: only that it is scaled


def test_distances_are_in_steps_of_a_king() -> None:
    """Guards the feather's depth against its slow definition: one erosion after the other."""
    rng = np.random.default_rng(0)
    for density in (0.0, 0.01, 0.1, 0.9):
        where = rng.random((23, 31)) < density
        rows, columns = np.nonzero(where)
        y, x = np.mgrid[:23, :31]
        steps = [np.maximum(abs(y - row), abs(x - column)) for row, column in zip(rows, columns, strict=True)]
        np.testing.assert_array_equal(distance(where, 9), np.min([np.full(where.shape, 9), *steps], axis=0))


def test_an_ordinary_request_is_warned_of_nothing() -> None:
    """Guards the warnings' worth."""
    assert masked(hole(64, 64), prompt="a fox", mask_feather=4) == []
