"""What the model is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from training import dataset
from training.evaluation import seeds
from training.examples import Example, example
from training.scenes import KINDS

SIZE = 64


@pytest.fixture(scope="module")
def drawn() -> list[Example]:
    return [example(seed, SIZE) for seed in range(60)]


def test_the_mask_hides_every_trace_of_the_subject(drawn: list[Example]) -> None:
    """Guards the model against learning to copy a shadow's edge instead of reading the prompt."""
    for one in drawn:
        for picture in (one.image, one.without):
            assert picture.shape == (SIZE, SIZE, 3)
        assert (one.image != one.without).any()
        assert np.array_equal(one.image[~one.mask], one.without[~one.mask])


def test_something_is_left_to_be_seen(drawn: list[Example]) -> None:
    assert np.median([one.mask.mean() for one in drawn]) < 0.6
    assert sum(one.mask.all() for one in drawn) <= 1


def test_a_seed_is_one_example() -> None:
    a, b = example(3, SIZE), example(3, SIZE)
    assert (a.add, a.remove, a.fill) == (b.add, b.remove, b.fill)
    assert a.image.tobytes() == b.image.tobytes()
    assert np.array_equal(a.mask, b.mask)
    assert np.array_equal(a.other_mask, b.other_mask)


def test_adding_names_a_thing_and_removing_names_none(drawn: list[Example]) -> None:
    names = {name for kind in KINDS.values() for name in kind.names}
    for one in drawn:
        assert all(any(name in caption for name in names) for caption in one.add)
        assert not any(word in names for caption in one.remove for word in caption.split())


def test_nobody_is_asked_about_what_somebody_was_trained_on() -> None:
    """Guards "held-out": evaluation, the judge's training and the model's training share no seed."""
    assert seeds.EVALUATION.stop <= seeds.CLASSIFIER.start
    assert seeds.CLASSIFIER.stop <= dataset.FIRST_SEED
    asked = [seeds.ADD, seeds.REMOVE, seeds.REPLACE, seeds.SWAP, seeds.VAE, seeds.CEILING]
    assert all(part.start >= seeds.EVALUATION.start and part.stop <= seeds.EVALUATION.stop for part in asked)
    assert sum(map(len, asked)) == len(set().union(*asked))
