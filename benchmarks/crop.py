"""What cropping saves and what it costs in quality (`make bench-crop`), through a real Triton.

    python -m benchmarks crop --write          about a quarter of an hour

Scenes of the shipped model's world, none of which it was trained on, with a thing to add or to remove under a box of
about a tenth of the picture. Each is painted on the whole picture, on the automatic crop, and on that crop scaled to
the model's own size (by the client, and back), as web UIs do it. Two sizes: pictures four times as wide as the model's
own size, and pictures of its own size, which are worked on whole unless a smaller crop is asked for. Kinds are read by
the independent classifier, colours by the colour reader; removal is held against the true scene.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import page
from benchmarks.harness.artefacts import shipped
from benchmarks.harness.machine import line, machine
from benchmarks.harness.paths import CHECKPOINTS, DOCS, RESULTS
from benchmarks.harness.pictures import Pixels
from benchmarks.harness.server import serve
from gesso_client import Client
from training.evaluation import measures, seeds, tasks
from training.evaluation.classifier import read_kinds, train_classifier
from training.evaluation.colour import read_colour
from training.model import SIZE
from training.scenes import COLOURS, draw
from training.scenes.captions import PLACE_WORDS, TIME_WORDS
from training.scenes.masks import box_mask

COVERAGE = (0.06, 0.15)  # of the picture, by the mask
STEPS = 20
GUIDANCE = 3.0
PAGE = DOCS / "benchmarks.md"
MARK = "<!-- measured by `make bench-crop` -->"
FILE = RESULTS / "crop.json"


@dataclass(frozen=True)
class Question:
    """Pictures of any size; `box` and the small pictures, which the judges look at, are of the model's own."""

    seed: int
    image: Pixels
    mask: Pixels  # bool
    prompt: str
    truth: Pixels  # the scene without the thing
    box: tuple[int, int, int, int]
    kind: str | None = None
    colour: str | None = None


@dataclass(frozen=True)
class Outcome:
    method: str
    kind: float  # shares
    colour: float
    removal_db: float
    pixels: float  # worked on, as a share of the whole picture
    seconds: float  # median of a request, one at a time


Method = Callable[[Client, Question], tuple[Pixels, float]]  # the picture, and the share of it that was worked on


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=CHECKPOINTS / "little-world-training")
    parser.add_argument("--large", type=int, default=24, help="scenes of 512 px, for adding and for removing")
    parser.add_argument("--native", type=int, default=60, help="scenes of the model's own size")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    classifier = train_classifier(options.work, torch.device("cpu"))
    scenes = {"large": options.large, "native": options.native}
    record: dict[str, Any] = {"machine": machine(), "scenes": scenes}
    with serve(shipped(), "--cache-mib=0") as server, Client(server.grpc) as client:
        for name, side, count, methods in (
            ("large", 4 * SIZE, options.large, {"whole picture": direct(-1), "automatic crop": direct(None),
                                                "crop at the model's own size": scaled(SIZE // 4, SIZE)}),
            ("native", SIZE, options.native, {"whole picture": direct(-1), "crop, 8 px around the mask": direct(8),
                                              "crop, 16 px": direct(16), "crop, 32 px": direct(32),
                                              "crop of 16 px, scaled up to the model's own size": scaled(16, 1)}),
        ):  # fmt: skip
            add, remove = questions(side, count)
            record[name] = [
                asdict(judged(method, answer, client, classifier, add, remove)) for method, answer in methods.items()
            ]
            print(json.dumps(record[name], indent=1), flush=True)
    tables = markdown(record)
    print(tables)
    if options.write:
        FILE.write_text(json.dumps(record, indent=2) + "\n")
        page.put(PAGE, MARK, tables)
    return 0


def questions(side: int, count: int) -> tuple[list[Question], list[Question]]:
    """(add, remove), each `count`."""
    add, remove = [], []
    factor = side // SIZE
    for seed in (*seeds.ADD, *seeds.REMOVE):
        scene = draw(seed, side, side)
        box = tasks.grown(np.random.default_rng(seed), scene.subject.box, *tasks.MARGIN)
        left, top, right, bottom = (int(np.clip(value // factor, 0, SIZE)) for value in box)
        mask = box_mask(side, side, (left * factor, top * factor, right * factor, bottom * factor))
        others = np.zeros((side, side), bool)
        for other in scene.others:
            others |= other.mask
        if not COVERAGE[0] < mask.mean() < COVERAGE[1] or (others & mask).any():
            continue
        colour = list(COLOURS)[seed % len(COLOURS)]
        kind, place = scene.subject.kind, f"{PLACE_WORDS[scene.place][0]} {TIME_WORDS[scene.time][0]}"
        small = (left, top, right, bottom)
        if len(add) < count:
            prompt = f"a {colour} {kind}"
            add.append(Question(seed, scene.without, mask, prompt, scene.without, small, kind, colour))
        remove.append(Question(seed, scene.image, mask, place, scene.without, small))
        if len(remove) == count:
            return add, remove
    raise AssertionError("not enough scenes")


def direct(crop: int | None) -> Method:
    """As gesso does it. crop: `padding_mask_crop`."""

    def answer(client: Client, question: Question) -> tuple[Pixels, float]:
        result = paint(client, question.image, question.mask, question, crop)
        height, width = result.report["working_size"]
        return np.asarray(result.image), height * width / question.mask.size

    return answer


def scaled(margin: int, least: int) -> Method:
    """A crop with `margin` around the mask and at least `least` a side, scaled to the model's own size and back."""

    def answer(client: Client, question: Question) -> tuple[Pixels, float]:
        top, bottom = span(question.mask.any(axis=1), margin, least)
        left, right = span(question.mask.any(axis=0), margin, least)
        crop = np.s_[top:bottom, left:right]
        image, mask = Image.fromarray(question.image[crop]), Image.fromarray(question.mask[crop])
        scale = SIZE / max(image.size)
        size = (max(8, round(image.width * scale / 8) * 8), max(8, round(image.height * scale / 8) * 8))
        small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        result = paint(client, small, np.asarray(mask.resize(size, Image.Resampling.NEAREST)), question, -1)
        back = np.asarray(Image.fromarray(np.asarray(result.image)).resize(image.size, Image.Resampling.LANCZOS))
        picture = question.image.copy()
        picture[crop] = np.where(question.mask[crop][..., None], back, question.image[crop])
        return picture, size[0] * size[1] / question.mask.size

    return answer


def span(inside: Pixels, margin: int, least: int) -> tuple[int, int]:
    low, high = np.flatnonzero(inside)[[0, -1]]
    length = min(max(high + 1 - low + 2 * margin, least), len(inside))
    start = int(np.clip((low + high + 1 - length) // 2, 0, len(inside) - length))
    return start, start + length


def paint(client: Client, image: Pixels, mask: Pixels, question: Question, crop: int | None) -> Any:
    return client.inpaint(
        np.ascontiguousarray(image), mask, question.prompt, seed=question.seed, num_inference_steps=STEPS,
        guidance_scale=GUIDANCE, padding_mask_crop=crop,
    )  # fmt: skip


def judged(
    method: str, answer: Method, client: Client, classifier: Any, add: list[Question], remove: list[Question]
) -> Outcome:
    pictures, shares, seconds = [], [], []
    for question in add + remove:
        started = time.perf_counter()
        picture, share = answer(client, question)
        seconds.append(time.perf_counter() - started)
        pictures.append(picture)
        shares.append(share)
    added = [small(picture) for picture in pictures[: len(add)]]
    masks = [box_mask(SIZE, SIZE, question.box) for question in add]
    kinds = read_kinds(classifier, added, [question.box for question in add])
    colours = [read_colour(p, small(q.truth), mask) for p, q, mask in zip(added, add, masks, strict=True)]
    pairs = zip(pictures[len(add) :], remove, strict=True)
    return Outcome(
        method,
        statistics.fmean(kind == question.kind for kind, question in zip(kinds, add, strict=True)),
        statistics.fmean(colour == question.colour for colour, question in zip(colours, add, strict=True)),
        statistics.fmean(measures.psnr(picture, question.truth, question.mask) for picture, question in pairs),
        statistics.fmean(shares),
        statistics.median(seconds),
    )


def small(picture: Pixels) -> Pixels:
    """At the model's own size, where the judges are at home."""
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BOX))


def markdown(record: dict[str, Any]) -> str:
    tables = []
    for name, side in (("large", 4 * SIZE), ("native", SIZE)):
        heads = [f"{side} px, {record['scenes'][name]} scenes each", "pixels worked on", "time / whole"]
        outcomes = [Outcome(**row) for row in record[name]]
        rows = [
            (each.method, f"{each.pixels:.2f}", f"{each.seconds / outcomes[0].seconds:.2f}",
             f"{each.kind:.0%}", f"{each.colour:.0%}", f"{each.removal_db:.1f} dB")
            for each in outcomes
        ]  # fmt: skip
        tables.append(page.table([*heads, "the right kind", "the right colour", "removal"], rows))
    return "\n\n".join([*tables, line(record["machine"])])
