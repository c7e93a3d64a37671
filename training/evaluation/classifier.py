"""The judge of kinds: a small convolutional network that says what a crop shows, trained on scenes as they are drawn.

It never sees a painted picture, and knows nothing of the model that it judges. One of its answers is "nothing", so that
a mask filled with landscape is not taken for the likeliest thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from training.evaluation import seeds, tasks
from training.fit import Schedule, fit
from training.model import SIZE
from training.scenes import KINDS
from training.scenes.masks import grown
from training.scenes.scene import Box, Pixels
from training.vae import to_torch

NOTHING = "nothing"
LABELS = (*KINDS, NOTHING)
CROP = 64  # pixels, whatever the shape of the box
SCENES = 12_000  # two in three are of use
BATCH = 64
SCHEDULE = Schedule(steps=3000, learning_rate=2e-3, decay=0.7, ema=0.99, seed=4)


def train_classifier(folder: Path, device: torch.device) -> nn.Module:
    """Minutes on two cores, once: the weights stay in `folder`, in classifier.pt."""
    torch.manual_seed(0)
    network = make_classifier().to(memory_format=torch.channels_last)
    return fit("classifier", network, _Loss(device), SCHEDULE, folder, device)


def make_classifier() -> nn.Module:
    """[B, 3, 64, 64] in -1..1 to logits [B, len(LABELS)]; about 280,000 parameters."""
    layers: list[nn.Module] = []
    for inside, out, stride in ((3, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
        layers += [nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(LABELS)))


@torch.no_grad()
def read_kinds(classifier: nn.Module, pictures: Sequence[Pixels], boxes: Sequence[Box]) -> list[str]:
    """What each picture shows in its box, one of LABELS."""
    device = next(classifier.parameters()).device
    crops = np.stack([crop(picture, box) for picture, box in zip(pictures, boxes, strict=True)])
    return [LABELS[i] for i in classifier(to_torch(crops, device)).argmax(1).tolist()]


def crop(picture: Pixels, box: Box) -> Pixels:
    """The box, stretched to [CROP, CROP, 3]: its shape must not tell what the prompt asked for."""
    left, top, right, bottom = box
    inside = Image.fromarray(picture[top:bottom, left:right])  # resize(box=...) would look at what is around it
    return np.asarray(inside.resize((CROP, CROP), Image.Resampling.BICUBIC))


def example(seed: int) -> tuple[Pixels, int] | None:
    """A crop and its label; None when another thing is in it."""
    rng = np.random.default_rng([seed, 11])
    around = tasks.square if rng.random() < 0.5 else _around
    found = next(tasks.lone(range(seed, seed + 1), around), None)
    if found is None:
        return None
    _, scene, box = found
    if rng.random() < 1 / len(LABELS):
        return crop(scene.without, box), LABELS.index(NOTHING)
    return crop(scene.image, box), LABELS.index(scene.subject.kind)


def _around(rng: np.random.Generator, box: Box) -> Box:
    """Looser, and now and then tighter, than the masks that are asked about."""
    left, top, right, bottom = grown(rng, box, -0.05, 0.3)
    return (max(0, left), max(0, top), min(SIZE, right), min(SIZE, bottom))


class _Loss:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    @cached_property
    def _examples(self) -> tuple[np.ndarray, Tensor]:
        """Crops uint8 [N, CROP, CROP, 3] and labels [N]; drawn only if there is training to do."""
        drawn = [one for one in map(example, seeds.CLASSIFIER[:SCENES]) if one is not None]
        return np.stack([picture for picture, _ in drawn]), torch.tensor([label for _, label in drawn])

    def __call__(self, classifier: nn.Module, random: torch.Generator, step: int) -> Mapping[str, Tensor]:
        pictures, labels = self._examples
        picked = torch.randint(len(pictures), (BATCH,), generator=random)
        images = to_torch(pictures[picked.numpy()], self._device)
        flips = (torch.rand(BATCH, generator=random) < 0.5).to(self._device)
        images[flips] = images[flips].flip(-1)
        with torch.autocast(self._device.type, torch.bfloat16):
            logits = classifier(images.contiguous(memory_format=torch.channels_last))
        return {"entropy": F.cross_entropy(logits.float(), labels[picked].to(self._device))}
