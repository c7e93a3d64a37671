"""From answers to rows of the table: what the targets are, and what is held against them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from torch import nn

from benchmarks.harness.processes import Memory
from training.evaluation import measures, seeds, tasks
from training.evaluation.classifier import NOTHING, read_kinds
from training.evaluation.colour import read_colour
from training.evaluation.report import Row
from training.evaluation.serving import STEPS
from training.evaluation.tasks import Question
from training.model import SIZE
from training.scenes import draw
from training.scenes.masks import box_mask
from training.scenes.scene import Pixels
from training.vae import to_torch

JUDGE_KIND, JUDGE_COLOUR = 0.95, 0.97  # of true pictures
COLOUR, KIND = 0.90, 0.80  # of what is painted, the share that is what was asked for
VAE_PSNR, REMOVE_PSNR = 30.0, 24.0  # dB
BETTER = 0.75
SEAM = 1.3
SECONDS, MEGABYTES = 2.5, 900.0

Found = tuple[list[Row], list[dict[str, Any]]]  # for the table, and for each picture


def judges(classifier: nn.Module, count: int) -> list[Row]:
    """What the two judges say about true pictures, in both kinds of box: no model can be seen to do better."""
    true = [case for around in (tasks.loose, tasks.square) for case in islice(tasks.lone(seeds.CEILING, around), count)]
    boxes = [box for _, _, box in true]
    kinds = read_kinds(classifier, [scene.image for _, scene, _ in true], boxes)
    nothings = read_kinds(classifier, [scene.without for _, scene, _ in true], boxes)
    colours = [read_colour(scene.image, scene.without, box_mask(SIZE, SIZE, box)) for _, scene, box in true]
    kinds_right = _share(kinds, [scene.subject.kind for _, scene, _ in true])
    colours_right = _share(colours, [scene.subject.colour for _, scene, _ in true])
    nothings_right = nothings.count(NOTHING) / len(nothings)
    return [
        Row("judges", f"kinds told by the classifier, {len(true)} true crops", kinds_right, "%", JUDGE_KIND),
        Row("judges", f"empty places told by it, {len(true)} true crops", nothings_right, "%"),
        Row("judges", f"colours told by the colour reader, {len(true)} true crops", colours_right, "%", JUDGE_COLOUR),
    ]


@torch.no_grad()
def reconstruction(checkpoint: Path, count: int) -> list[Row]:
    vae = AutoencoderKL.from_pretrained(checkpoint, subfolder="vae", torch_dtype=torch.float32).eval()
    values = []
    for seed in seeds.VAE[:count]:
        scene = draw(seed, SIZE, SIZE).image
        decoded = vae.decode(vae.encode(to_torch(scene[None], vae.device)).latent_dist.mean).sample
        levels = ((decoded[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().byte().numpy()
        values.append(measures.psnr(levels, scene))
    return [Row("VAE", f"mean PSNR of {count} scenes, encoded and decoded", float(np.mean(values)), "dB", VAE_PSNR)]


def painted(name: str, classifier: nn.Module, questions: Sequence[Question], pictures: Sequence[Pixels]) -> Found:
    """Add and replace: is it there, and in its colour?"""
    kinds = read_kinds(classifier, pictures, [question.box for question in questions])
    samples = [
        {"seed": question.seed, "prompt": question.prompt, "kind": kind, "colour": _colour(question, picture)}
        for question, picture, kind in zip(questions, pictures, kinds, strict=True)
    ]
    colours_right = _share([sample["colour"] for sample in samples], [question.colour for question in questions])
    kinds_right = _share(kinds, [question.kind for question in questions])
    rows = [
        Row(name, f"the colour asked for, {len(samples)} prompts", colours_right, "%", COLOUR),
        Row(name, f"the thing asked for, {len(samples)} prompts", kinds_right, "%", KIND),
    ]
    return rows, samples


def removed(questions: Sequence[Question], pictures: Sequence[Pixels]) -> Found:
    """Is what comes back what was behind, is it closer than OpenCV's, and does it join what is around it?"""
    samples = []
    for question, picture in zip(questions, pictures, strict=True):
        samples.append({
            "seed": question.seed,
            "prompt": question.prompt,
            "alone": question.alone,
            "psnr": measures.psnr(picture, question.empty, question.mask),
            **measures.opencv_psnr(question.image, question.mask, question.empty),
            "texture": measures.texture(question.empty, question.mask),
        })  # fmt: skip
    alone = [s for s in samples if s["alone"]]
    textured = [s for s in samples if s["texture"] >= measures.TEXTURE]
    better = np.mean([s["psnr"] > max(s["telea"], s["navier-stokes"]) for s in textured] or [0])
    ours, true = (
        np.concatenate([measures.seam(p, q.mask) for q, p in zip(questions, those, strict=True)]).mean()
        for those in (pictures, [question.empty for question in questions])
    )
    rows = [
        Row("remove", f"mean PSNR under the mask, {len(samples)} scenes", _mean(samples, "psnr"), "dB", REMOVE_PSNR),
        Row("remove", f"the same on the {len(alone)} with nothing else under the mask", _mean(alone, "psnr"), "dB"),
        Row("remove", f"OpenCV's Telea on all {len(samples)}", _mean(samples, "telea"), "dB"),
        Row("remove", f"OpenCV's Navier-Stokes on all {len(samples)}", _mean(samples, "navier-stokes"), "dB"),
        Row("remove", f"closer than both on the {len(textured)} with texture", float(better), "%", BETTER),
        Row("remove", "gradient across the mask's edge, to the true one", float(ours / true), "x", 1 / SEAM, SEAM),
    ]
    return rows, samples


def swapped(pairs: Sequence[tuple[Question, Question]], pictures: Sequence[Pixels]) -> Found:
    """The same scene, mask and seed, asked for in two colours; two pictures for each pair."""
    samples = [
        {"seed": first.seed, "asked": [first.colour, second.colour], "read": [_colour(first, a), _colour(second, b)]}
        for (first, second), a, b in zip(pairs, pictures[::2], pictures[1::2], strict=True)
    ]
    followed = _share([c for s in samples for c in s["read"]], [c for s in samples for c in s["asked"]])
    both = np.mean([s["read"] == s["asked"] for s in samples])
    stayed = np.mean([s["read"][1] == s["asked"][0] for s in samples])
    rows = [
        Row("swap", f"the colour asked for, {len(pairs)} scenes in two colours each", followed, "%", COLOUR),
        Row("swap", "the colour asked for, both times", float(both), "%"),
        Row("swap", "the first colour where the second was asked for", float(stayed), "%"),
    ]
    return rows, samples


def speed(seconds: float) -> list[Row]:
    return [Row("speed", f"{STEPS} steps at {SIZE} px through the SDK, median", seconds, "s", most=SECONDS)]


def memory(processes: Sequence[Memory]) -> list[Row]:
    resident, proportional = sum(p.resident for p in processes), sum(p.proportional for p in processes)
    each = ", ".join(f"{p.name} {p.resident:.0f}" for p in processes)
    return [
        Row("memory", f"the server's processes, resident ({each})", resident, "MB", most=MEGABYTES),
        Row("memory", "the same, shared pages counted once (PSS)", proportional, "MB"),
    ]


def _colour(question: Question, picture: Pixels) -> str | None:
    return read_colour(picture, question.empty, question.mask)


def _mean(samples: Sequence[dict[str, Any]], key: str) -> float:
    return float(np.mean([sample[key] for sample in samples]))


def _share(read: Sequence[object], right: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(read, right, strict=True)) / len(right)
