"""The questions: a held-out scene, a mask, a prompt, and what the answer should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from training.evaluation import seeds
from training.model import SIZE
from training.scenes import COLOURS, KINDS, Scene, draw
from training.scenes.captions import PLACE_WORDS, TIME_WORDS
from training.scenes.masks import Mask, box_mask, grown
from training.scenes.scene import Box, Pixels

GUIDANCE = 3.0
BoxAround = Callable[[np.random.Generator, Box], Box]
MARGIN = (0.02, 0.15)  # by how much of the subject's size a mask is larger, on each side


@dataclass(frozen=True)
class Question:
    """All pictures and masks are [SIZE, SIZE]. `kind` and `colour` are None when nothing is to be painted."""

    seed: int
    image: Pixels
    mask: Mask
    box: Box  # the mask's
    prompt: str
    guidance_scale: float
    empty: Pixels  # the scene with nothing at that place
    kind: str | None = None
    colour: str | None = None
    alone: bool = True  # no other thing reaches into the box


def add(count: int) -> list[Question]:
    """Where the scene had a thing, one of that kind is asked for; its colour is drawn, each as often as the others."""
    rng = np.random.default_rng(0)
    colours = rng.permutation(np.resize(list(COLOURS), count))
    return [
        _painting(seed, scene, scene.without, box, scene.subject.kind, str(colour))
        for (seed, scene, box), colour in zip(islice(lone(seeds.ADD, loose), count), colours, strict=True)
    ]


def remove(count: int) -> list[Question]:
    """The subject is to go. Other things may stand half under the mask, and the prompt does not speak of them."""
    questions = []
    for seed in seeds.REMOVE[:count]:
        scene = draw(seed, SIZE, SIZE)
        box = loose(np.random.default_rng(seed), scene.subject.box)
        prompt = f"{PLACE_WORDS[scene.place][0]} {TIME_WORDS[scene.time][0]}"
        mask = box_mask(SIZE, SIZE, box)
        alone = _alone(scene, box)
        questions.append(Question(seed, scene.image, mask, box, prompt, GUIDANCE, scene.without, alone=alone))
    return questions


def replace(count: int) -> list[Question]:
    """Over a thing, another of those that stand (or float) where it does, in another colour."""
    places = ((seed, scene, box, rivals(scene.subject.kind)) for seed, scene, box in lone(seeds.REPLACE, square))
    questions = []
    # Of all kinds only the boat swims; scenes about it are passed over.
    for seed, scene, box, kinds in islice((place for place in places if place[3]), count):
        rng = np.random.default_rng(seed)
        colours = [colour for colour in COLOURS if colour != scene.subject.colour]
        kind, colour = str(rng.choice(kinds)), str(rng.choice(colours))
        questions.append(_painting(seed, scene, scene.image, box, kind, colour))
    return questions


def swap(count: int) -> list[tuple[Question, Question]]:
    """Pairs that differ in the colour asked for and in nothing else."""
    pairs = []
    for seed, scene, box in islice(lone(seeds.SWAP, loose), count):
        colours = np.random.default_rng(seed).choice(list(COLOURS), 2, replace=False)
        first, second = (_painting(seed, scene, scene.image, box, scene.subject.kind, str(c)) for c in colours)
        pairs.append((first, second))
    return pairs


def lone(from_seeds: range, around: BoxAround) -> Iterator[tuple[int, Scene, Box]]:
    """Scenes with a box around their subject that no other thing reaches into: (seed, scene, box)."""
    for seed in from_seeds:
        scene = draw(seed, SIZE, SIZE)
        box = around(np.random.default_rng(seed), scene.subject.box)
        if _alone(scene, box):
            yield seed, scene, box


def loose(rng: np.random.Generator, box: Box) -> Box:
    """The box with a margin."""
    return _cut(grown(rng, box, *MARGIN))


def square(rng: np.random.Generator, box: Box) -> Box:
    """As wide as high, with a margin, standing where the box stands, and moved sideways to be inside the picture."""
    left, top, right, bottom = grown(rng, box, *MARGIN)
    side = max(right - left, bottom - top)
    left = int(np.clip((left + right - side) // 2, 0, max(0, SIZE - side)))
    return _cut((left, bottom - side, left + side, bottom))


def rivals(kind: str) -> list[str]:
    """The other kinds that belong where it does."""
    return [other for other in KINDS if other != kind and KINDS[other].where == KINDS[kind].where]


def _painting(seed: int, scene: Scene, image: Pixels, box: Box, kind: str, colour: str) -> Question:
    prompt = f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {kind}"
    mask = box_mask(SIZE, SIZE, box)
    return Question(seed, image, mask, box, prompt, GUIDANCE, scene.without, kind, colour)


def _cut(box: Box) -> Box:
    left, top, right, bottom = box
    return (max(0, left), max(0, top), min(SIZE, right), min(SIZE, bottom))


def _alone(scene: Scene, box: Box) -> bool:
    left, top, right, bottom = box
    return not any(
        left < other.box[2] and other.box[0] < right and top < other.box[3] and other.box[1] < bottom
        for other in scene.others
    )
