"""One picture of many: the first questions of each task, never chosen, with what came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.evaluation.tasks import Question
from training.scenes.scene import Pixels

COLUMNS = 8
GAP = 6
TEXT = 11  # pixels
MARGIN_LEFT = 62
INK, PAPER, OUTLINE = (40, 40, 40), (255, 255, 255), (255, 0, 80)


@dataclass(frozen=True)
class Band:
    """One task: the same COLUMNS questions in each of its rows."""

    title: str
    questions: Sequence[Question]
    rows: Sequence[tuple[str, Sequence[Pixels]]]  # what the row is called, its pictures


def sheet(bands: Sequence[Band]) -> Image.Image:
    side = bands[0].questions[0].image.shape[0]
    font = ImageFont.load_default(TEXT)
    heights = [3 * TEXT + 2 * GAP + len(band.rows) * (side + GAP) for band in bands]
    picture = Image.new("RGB", (MARGIN_LEFT + COLUMNS * (side + GAP), sum(heights) + GAP), PAPER)
    pen = ImageDraw.Draw(picture)
    top = GAP
    for band, height in zip(bands, heights, strict=True):
        pen.text((GAP, top), band.title, INK, font)
        y = top + TEXT + GAP
        for column, question in enumerate(band.questions[:COLUMNS]):
            pen.text((MARGIN_LEFT + column * (side + GAP), y), question.prompt, INK, font)
        y += TEXT + GAP
        for name, pictures in band.rows:
            pen.text((GAP, y + side // 2), name, INK, font)
            for column, pixels in enumerate(pictures[:COLUMNS]):
                picture.paste(Image.fromarray(pixels), (MARGIN_LEFT + column * (side + GAP), y))
            y += side + GAP
        top += height
    return picture


def outlined(question: Question) -> Pixels:
    """The picture as sent, with the mask's edge drawn on it."""
    picture = Image.fromarray(np.array(question.image))
    left, top, right, bottom = question.box
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=OUTLINE)
    return np.asarray(picture)
