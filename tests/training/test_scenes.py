"""The pictures that everything is trained and judged on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.scenes import COLOURS, KINDS, Scene, captions, draw, masks

ROOT = Path(__file__).parents[2]
SEEDS = range(40)

DIGEST = """
import hashlib
from training.scenes import draw
scene = draw(7)
print(hashlib.sha256(scene.image.tobytes() + scene.without.tobytes() + scene.subject.mask.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(seed) for seed in SEEDS]


def test_a_seed_is_one_scene_in_every_process() -> None:
    """Guards against pictures that depend on what was drawn before, or on the hash seed of the process."""
    draw(8)
    scene = draw(7)
    here = hashlib.sha256(scene.image.tobytes() + scene.without.tobytes() + scene.subject.mask.tobytes()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    fresh = subprocess.run(
        [sys.executable, "-c", DIGEST], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert fresh.stdout.strip() == here


def test_different_seeds_are_different_scenes(scenes: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_removing_the_subject_changes_its_box_alone(scenes: list[Scene]) -> None:
    """Guards the truth of removal: grain, clouds and the other things are the same in both pictures."""
    for scene in scenes:
        left, top, right, bottom = scene.subject.box
        changed = (scene.image != scene.without).any(2)
        assert changed[top:bottom, left:right].any()
        changed[top:bottom, left:right] = False
        assert not changed.any()


def test_masks_lie_in_their_boxes_and_show_what_changed(scenes: list[Scene]) -> None:
    for scene in scenes:
        for placed in (scene.subject, *scene.others):
            left, top, right, bottom = placed.box
            assert 0 <= left < right <= 128
            assert 0 <= top < bottom <= 128
            outside = placed.mask.copy()
            outside[top:bottom, left:right] = False
            assert not outside.any()
        subject = scene.subject
        assert subject.mask.any()
        # A white thing on snow may leave a few pixels as they were.
        assert (scene.image != scene.without).any(2)[subject.mask].mean() > 0.9


def test_no_two_things_claim_a_pixel(scenes: list[Scene]) -> None:
    """Guards occlusion: a mask is what is seen of a thing, not what there is of it."""
    for scene in scenes:
        claims = sum(placed.mask.astype(int) for placed in (scene.subject, *scene.others))
        assert claims.max() == 1


def test_the_world_is_large_enough() -> None:
    assert len(KINDS) >= 8
    assert len(COLOURS) >= 8
    drawn = [draw(seed, 48, 48) for seed in range(300)]
    assert {scene.subject.kind for scene in drawn} == set(KINDS)
    assert {scene.subject.colour for scene in drawn} == set(COLOURS)
    assert {scene.place for scene in drawn} == set(captions.PLACE_WORDS)
    assert {scene.time for scene in drawn} == set(captions.TIME_WORDS)


def test_the_subject_can_be_asked_for() -> None:
    assert {draw(seed, 48, 48, subject="kite").subject.kind for seed in range(5)} == {"kite"}


@pytest.mark.parametrize("kind", KINDS)
def test_captions_vary_and_always_name_thing_and_colour(kind: str) -> None:
    rng = np.random.default_rng(0)
    said = {captions.with_thing(rng, kind, "orange", "meadow", "night") for _ in range(100)}
    assert len(said) > 10
    for caption in said:
        assert "orange" in caption.split()
        assert any(name in caption for name in KINDS[kind].names)


def test_captions_of_nothing_name_nothing() -> None:
    """Guards removal: a thing in its captions would be painted."""
    rng = np.random.default_rng(0)
    said = {captions.without_thing(rng, "snow", "sunset") for _ in range(200)}
    assert len(said) > 10
    names = {name for kind in KINDS.values() for name in kind.names}
    assert not any(name in caption.split() for caption in said for name in names)


@pytest.mark.parametrize("kind", [masks.random_box, masks.blob, masks.stroke, masks.half_plane, masks.thin_line])
def test_masks_of_every_kind_hide_something_and_leave_something(kind) -> None:  # type: ignore[no-untyped-def]
    for seed in range(300):
        mask = kind(np.random.default_rng(seed), 96, 128)
        assert mask.shape == (96, 128)
        assert mask.dtype == bool
        assert mask.any(), f"seed {seed} is empty"
        assert not mask.all(), f"seed {seed} is full"
