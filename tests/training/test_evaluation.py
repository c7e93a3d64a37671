"""What the model is measured with: the questions and the measures, on pictures whose answers are known."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from training.evaluation import measures, report, tasks
from training.evaluation.classifier import CROP, LABELS, NOTHING, crop, example
from training.evaluation.colour import read_colour
from training.evaluation.report import Row
from training.evaluation.seeds import CLASSIFIER
from training.scenes import COLOURS, KINDS
from training.scenes.masks import box_mask
from training.scenes.scene import Box, Pixels

SOME = 50


def whole(size: int = 32) -> np.ndarray:
    return np.ones((size, size), bool)


def flat(level: float, size: int = 32) -> Pixels:
    return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize("around", [tasks.loose, tasks.square])
def test_true_things_are_read_as_their_own_colour(around: tasks.BoxAround) -> None:
    """Guards the reader against windows, trunks, wheels, shadows, and the light of every time of day."""
    true = list(islice(tasks.lone(CLASSIFIER, around), SOME))
    read = [read_colour(scene.image, scene.without, box_mask(128, 128, box)) for _, scene, box in true]
    right = [a == scene.subject.colour for a, (_, scene, _) in zip(read, true, strict=True)]
    assert sum(right) >= SOME - 1


def test_where_nothing_was_painted_there_is_no_colour() -> None:
    """Guards against landscape that is a little off being read as the nearest colour."""
    for _, scene, box in islice(tasks.lone(CLASSIFIER, tasks.loose), 20):
        off = np.clip(scene.without.astype(int) + 6, 0, 255).astype(np.uint8)
        assert read_colour(off, scene.without, box_mask(128, 128, box)) is None


@pytest.mark.parametrize("colour", COLOURS)
def test_pure_colours_are_themselves_in_light_and_shade(colour: str) -> None:
    for light in (0.8, 1.0):
        painted = np.tile((np.array(COLOURS[colour]) * light).astype(np.uint8), (32, 32, 1))
        assert read_colour(painted, 255 - painted, whole()) == colour


@pytest.mark.parametrize("task", [tasks.add, tasks.replace, tasks.remove])
def test_masks_hide_every_trace_and_are_their_boxes(task) -> None:  # type: ignore[no-untyped-def]
    """Guards the measure: an answer must not be seen from outside the mask, and nothing else may be judged."""
    for question in task(20):
        assert np.array_equal(question.image[~question.mask], question.empty[~question.mask])
        left, top, right, bottom = question.box
        assert question.mask[top:bottom, left:right].all()
        assert question.mask.sum() == (bottom - top) * (right - left)
        assert not question.mask.all()


def test_a_limited_run_asks_the_first_questions_of_a_whole_one() -> None:
    few, more = tasks.remove(3), tasks.remove(6)
    assert [question.seed for question in few] == [question.seed for question in more[:3]]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(few, more[:3], strict=True))


def test_colours_to_add_are_balanced_and_not_the_scenes_own() -> None:
    """Guards against a model that paints what was there before, or one favourite colour."""
    questions = tasks.add(45)
    asked = [question.colour for question in questions]
    assert {asked.count(colour) for colour in COLOURS} == {5}
    assert {question.kind for question in questions} <= set(KINDS)
    assert all(question.prompt.endswith(f" {question.colour} {question.kind}") for question in questions)


def test_replacements_belong_there_and_are_another_thing() -> None:
    by_seed = {seed: scene for seed, scene, _ in islice(tasks.lone(tasks.seeds.REPLACE, tasks.square), 40)}
    for question in tasks.replace(20):
        subject = by_seed[question.seed].subject
        assert question.kind != subject.kind
        assert question.colour != subject.colour
        assert KINDS[str(question.kind)].where == KINDS[subject.kind].where


def test_swapped_questions_differ_in_their_colour_alone() -> None:
    for first, second in tasks.swap(10):
        assert first.colour != second.colour
        assert first.seed == second.seed
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.mask, second.mask)
        assert first.prompt.replace(str(first.colour), "").split()[-1] == second.prompt.split()[-1]


@pytest.mark.parametrize("box", [(60, 40, 70, 90), (0, 20, 100, 60), (120, 0, 128, 128), (0, 0, 5, 5)])
def test_squares_hold_their_box_and_stay_inside(box: Box) -> None:
    for seed in range(50):
        left, top, right, bottom = tasks.square(np.random.default_rng(seed), box)
        assert 0 <= left <= box[0] < box[2] <= right <= 128
        assert 0 <= top <= box[1] < box[3] <= bottom <= 128


def test_psnr_is_the_textbooks() -> None:
    assert measures.psnr(flat(110), flat(100)) == pytest.approx(20 * np.log10(255 / 10))
    half = whole()
    half[:16] = False
    picture = flat(100)
    picture[:16] = 0  # not under the mask
    picture[16:] = 105
    assert measures.psnr(picture, flat(100), half) == pytest.approx(20 * np.log10(255 / 5))


def test_texture_tells_a_shore_from_a_plain_sky() -> None:
    grain = np.random.default_rng(0).normal(0, 1.2, (64, 64, 1))
    sky = np.clip(np.linspace(100, 160, 64)[:, None, None] + grain, 0, 255).repeat(3, 2).astype(np.uint8)
    shore = sky.copy()
    shore[32:] = 40
    assert measures.texture(sky, whole(64)) < measures.TEXTURE / 2
    assert measures.texture(shore, whole(64)) > 2 * measures.TEXTURE


def test_the_seam_is_measured_at_the_masks_edge_alone() -> None:
    mask = box_mask(32, 32, (8, 8, 24, 24))
    picture = flat(100)
    picture[mask] = 130
    assert measures.seam(picture, mask).shape == (4 * 16, 3)
    assert (measures.seam(picture, mask) == 30).all()
    picture[12:20, 12:20] = 255  # inside
    assert (measures.seam(picture, mask) == 30).all()


def test_crops_show_the_box_and_nothing_around_it() -> None:
    picture = flat(0, 128)
    picture[30:60, 20:100] = 200
    assert crop(picture, (20, 30, 100, 60)).shape == (CROP, CROP, 3)
    assert (crop(picture, (20, 30, 100, 60)) == 200).all()


def test_the_judge_is_shown_every_kind_and_nothing() -> None:
    examples = [one for one in map(example, CLASSIFIER[:300]) if one is not None]
    assert {LABELS[label] for _, label in examples} == {*KINDS, NOTHING}


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("add", "colour", 0.9, "%", 0.9), True),
        (Row("add", "colour", 0.899, "%", 0.9), False),
        (Row("speed", "seconds", 2.6, "s", most=2.5), False),
        (Row("remove", "seam", 0.7, "x", 1 / 1.3, 1.3), False),
        (Row("remove", "seam", 1.2, "x", 1 / 1.3, 1.3), True),
        (Row("swap", "stayed", 0.5, "%"), None),
    ],
)
def test_a_row_meets_its_target_or_has_none(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert row.cells()[-1] == {True: "yes", False: "**no**", None: ""}[met]


def test_the_table_replaces_the_former_one_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.MARK}\nold\n{report.MARK}\nafter\n")
    report.write_page(page, report.markdown([Row("add", "colour", 0.9, "%", 0.9)], {"cpu": "x"}))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| add | colour | 90.0% | ≥ 90.0% | yes |" in text
