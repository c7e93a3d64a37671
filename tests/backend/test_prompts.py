"""Emphasis in prompts: the web UI's own documented cases, and what it leaves to chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion.prompts import weighted

CASES = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    "[unbalanced": [("unbalanced", 1 / 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a ((deep)) one": [("a ", 1.0), ("deep", 1.1 * 1.1), (" one", 1.0)],
    "(word:1.3)": [("word", 1.3)],
    "(word : 0.5 )": [("word ", 0.5)],
    "(a (b:2) c:0.5)": [("a ", 0.5), ("b", 1.0), (" c", 0.5)],
    "[quiet] and (loud:-1)": [("quiet", 1 / 1.1), (" and ", 1.0), ("loud", -1.0)],
    "closed) and ] only": [("closed) and ] only", 1.0)],
    "at 12:30) sharp": [("at 12:30) sharp", 1.0)],
    "a: b": [("a: b", 1.0)],
    "()": [("", 1.0)],
    "": [("", 1.0)],
    "C:\\temp": [("C:\\temp", 1.0)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.1 * 1.1 * 1.3),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.1**4),
        (".", 1.1),
    ],
}


@pytest.mark.parametrize("prompt", CASES)
def test_emphasis_is_read_as_people_write_it(prompt: str) -> None:
    """Guards the syntax: prompts are copied from other programs, and must mean here what they meant there."""
    found = weighted(prompt, "prompt")
    assert [text for text, _ in found] == [text for text, _ in CASES[prompt]]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in CASES[prompt]])


@pytest.mark.parametrize("weight", ["1.2.3", ".", "99", "-10.5"])
def test_a_weight_out_of_all_bounds_is_refused(weight: str) -> None:
    """Guards against a prompt that turns the embeddings into infinities."""
    with pytest.raises(InvalidRequest, match="prompt: "):
        weighted(f"a (word:{weight})", "prompt")


@given(st.text(alphabet="ab ,:.1()[]\\", max_size=40))
def test_no_text_is_lost_and_none_is_made_up(prompt: str) -> None:
    """Guards against letters that a bracket swallows: what is left are the prompt's letters in their order."""
    try:
        found = weighted(prompt, "prompt")
    except InvalidRequest:
        return
    letters = [letter for letter in "".join(text for text, _ in found) if letter in "ab,"]
    assert letters == [letter for letter in prompt if letter in "ab,"]
    assert all(abs(weight) < 1e30 for _, weight in found)


@pytest.mark.parametrize("prompt", ["(" * 25 + "word" + ")" * 25, "((word:5):5)", "(" * 40 + "word", "(a (b:-4):-4)"])
def test_what_nested_brackets_weigh_together_is_bounded(prompt: str) -> None:
    """Guards against Haidra-Org/AI-Horde#177: each bracket was within its bound, all of them made the network answer
    NaN."""
    with pytest.raises(InvalidRequest, match=r"prompt: brackets weigh .* times; at most 10 is allowed"):
        weighted(prompt, "prompt")
    assert weighted("(" * 24 + "word" + ")" * 24, "prompt")[0][1] == pytest.approx(1.1**24)
