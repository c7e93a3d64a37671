"""What is said about a scene, in varied words."""

from __future__ import annotations

import numpy as np

from training.scenes.objects import KINDS

PLACE_WORDS = {
    "meadow": ("a meadow", "a green meadow", "a grassy field"),
    "hills": ("hills", "green hills", "rolling hills"),
    "sea": ("the sea", "a beach by the sea", "a calm sea"),
    "snow": ("a snowy valley", "snow", "snowy mountains"),
    "desert": ("a desert", "sand dunes", "a sandy desert"),
}
TIME_WORDS = {
    "morning": ("in the morning", "at dawn"),
    "day": ("by day", "on a clear day", "in daylight"),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "under the moon"),
}
EMPTY_WORDS = ("an empty landscape", "background", "empty scene", "just the landscape", "nothing")


def thing(rng: np.random.Generator, kind: str, colour: str) -> str:
    """'a red balloon', now and then without its article."""
    name = str(rng.choice(KINDS[kind].names)) if rng.random() < 0.4 else kind
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article} {colour} {name}" if rng.random() < 0.8 else f"{colour} {name}"


def landscape(rng: np.random.Generator, place: str, time: str) -> str:
    """'rolling hills at sunset', or only one of the two."""
    where, when = str(rng.choice(PLACE_WORDS[place])), str(rng.choice(TIME_WORDS[time]))
    form = rng.random()
    if form < 0.65:
        return f"{where} {when}"
    return where if form < 0.9 else f"a landscape {when}"


def with_thing(rng: np.random.Generator, kind: str, colour: str, place: str, time: str) -> str:
    """The thing alone in half of the cases, else with its landscape."""
    what = thing(rng, kind, colour)
    if rng.random() < 0.5:
        return what
    joint = {"sky": "over", "sea": "on", "ground": "in"}[KINDS[kind].where]
    return f"{what} {joint} {landscape(rng, place, time)}"


def without_thing(rng: np.random.Generator, place: str, time: str) -> str:
    """A landscape and nothing in it."""
    form = rng.random()
    if form < 0.25:
        return str(rng.choice(EMPTY_WORDS))
    scene = landscape(rng, place, time)
    return f"an empty scene, {scene}" if form < 0.4 else scene
