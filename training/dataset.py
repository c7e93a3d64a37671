"""The training set on disk: examples drawn by all cores, once."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from training.examples import example

CHUNK = 50
FIRST_SEED = 1_000_000  # those below are for evaluation, and never trained on


@dataclass(frozen=True)
class Dataset:
    """N examples; all arrays are mapped, not read."""

    images: np.ndarray  # uint8 [N, S, S, 3]
    without: np.ndarray
    masks: np.ndarray  # bool [N, S, S]
    other_masks: np.ndarray
    captions: list[dict[str, list[str]]]  # per example: add, remove, fill


def make_dataset(folder: Path, count: int, size: int) -> Dataset:
    """Draw the examples of `count` seeds into `folder`, unless they are there."""
    if not (folder / "captions.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (count, size, size)
        arrays = {
            "images": np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, 3)),
            "without": np.lib.format.open_memmap(folder / "without.npy", "w+", np.uint8, (*shape, 3)),
            "masks": np.lib.format.open_memmap(folder / "masks.npy", "w+", bool, shape),
            "other_masks": np.lib.format.open_memmap(folder / "other_masks.npy", "w+", bool, shape),
        }
        captions = []
        with multiprocessing.get_context("spawn").Pool() as pool:
            for i, drawn in enumerate(
                pool.imap(partial(example, size=size), range(FIRST_SEED, FIRST_SEED + count), CHUNK)
            ):
                arrays["images"][i], arrays["without"][i] = drawn.image, drawn.without
                arrays["masks"][i], arrays["other_masks"][i] = drawn.mask, drawn.other_mask
                captions.append({"add": drawn.add, "remove": drawn.remove, "fill": drawn.fill})
                if (i + 1) % 5000 == 0:
                    print(f"scenes: {i + 1} of {count}", flush=True)
        for array in arrays.values():
            array.flush()
        # Written last, and at once: a folder with it is whole.
        (folder / "captions.tmp").write_text(json.dumps(captions))
        os.replace(folder / "captions.tmp", folder / "captions.json")
    images, without, masks, other_masks = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "without", "masks", "other_masks")
    )
    return Dataset(images, without, masks, other_masks, json.loads((folder / "captions.json").read_text()))
