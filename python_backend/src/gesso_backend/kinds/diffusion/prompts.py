"""Emphasis in prompts, in the syntax that Stable Diffusion web UI made common.

`(word)` weighs 1.1, `(word:1.3)` what it says, `[word]` 1/1.1; they nest, and a backslash makes a bracket a letter. A
bracket that is never closed reaches to the end; one that was never opened is a letter.
"""

from __future__ import annotations

import re

from gesso_backend.errors import InvalidRequest

EMPHASIS = 1.1
MAX_WEIGHT = 10.0

_PIECE = re.compile(r"\\[\\()\[\]]|\\|[()\[\]]|:\s*([+-]?[\d.]+)\s*\)|[^\\()\[\]:]+|:")


def weighted(prompt: str, field: str) -> list[tuple[str, float]]:
    """The text without its brackets, in pieces of one weight each.

    Raises InvalidRequest naming `field` for a weight, or a product of nested ones, beyond MAX_WEIGHT.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # how many pieces there were at each open bracket

    def weigh(start: int, weight: float) -> None:
        pieces[start:] = [(text, before * weight) for text, before in pieces[start:]]

    for match in _PIECE.finditer(prompt):
        text, weight = match.group(), match.group(1)
        if text in opened:
            opened[text].append(len(pieces))
        elif opened["("] and (weight is not None or text == ")"):
            weigh(opened["("].pop(), EMPHASIS if weight is None else _number(weight, field))
        elif opened["["] and text == "]":
            weigh(opened["["].pop(), 1 / EMPHASIS)
        else:
            pieces.append((text[1:] if len(text) == 2 and text[0] == "\\" else text, 1.0))
    for start in opened["("]:
        weigh(start, EMPHASIS)
    for start in opened["["]:
        weigh(start, 1 / EMPHASIS)
    for text, weight in pieces:
        if not abs(weight) <= MAX_WEIGHT:
            raise InvalidRequest(
                field, f"brackets weigh {text[:40]!r} {weight:.3g} times; at most {MAX_WEIGHT:.0f} is allowed"
            )
    return _joined(pieces)


def _number(text: str, field: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        raise InvalidRequest(field, f"{text!r} is not a weight") from None
    if abs(weight) > MAX_WEIGHT:
        raise InvalidRequest(field, f"weight {text} is not between {-MAX_WEIGHT:.0f} and {MAX_WEIGHT:.0f}")
    return weight


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one weight as one piece: a word must not be cut where a bracket was a letter."""
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined or [("", 1.0)]
