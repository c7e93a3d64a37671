"""A finished bundle held against the checkpoint as somebody else reads it: diffusers' own pipeline.

What `verify` compares with is the networks as we loaded them, so a checkpoint that we read wrongly passes it. Here
nothing is shared but the checkpoint's files on one side, and the bundle's folder on the other.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gesso_export.bundle.checked import UNVERIFIED
from gesso_export.bundle.manifest import Bundle, read
from gesso_export.checkpoint.checkpoint import Checkpoint, SingleFile, StatedComponent
from gesso_export.checkpoint.weights import Weights
from gesso_export.errors import VerificationError
from gesso_export.proof import memory, one_step, opening, pipeline
from gesso_export.proof.one_step import Answer
from gesso_export.proof.opening import CannotOpen
from gesso_export.proof.sketch import Painted, distance

_BYTES = 5  # of a weight: float32, and what else there is while diffusers reads and paints
_EXACT = "fp32"

Configs = Callable[[SingleFile, Path], None]  # raises CannotOpen


@dataclass(frozen=True)
class Outcome:
    """What came of it: whether it was looked at, by which pipeline and to what, or why nobody looked."""

    verified: bool
    text: str
    worst: float = 0.0  # distance between what both painted

    def __str__(self) -> str:
        return self.text if self.verified else UNVERIFIED + self.text


LEFT_OUT = Outcome(False, "--independent-check off")


def check(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Mapping[str, Weights],
    as_read: Mapping[str, Answer],
    tolerances: Mapping[str, float],
    configs: Configs,
) -> Outcome:
    """Have diffusers and the bundle in `folder` paint the same step. Raises VerificationError when they differ.

    weights: by component of the checkpoint, for their size. as_read: networks before they lost precision, by name.
    tolerances: by precision, see `distance`. configs: writes those that diffusers reads a single file by to a
    directory. What it cannot open, and what memory cannot hold, is not verified, and the outcome says so.
    """
    bundle = read(folder)
    needed, left = _bytes(weights), memory.available()
    if left is not None and needed > left:
        return Outcome(False, f"needs {needed / 1e9:.1f} GB of memory")
    class_name = pipeline.CLASSES[bundle.family, bundle.native_inpainting]
    longest = max(spec.max_length for spec in bundle.tokenizers.values())
    try:
        with tempfile.TemporaryDirectory(prefix="gesso-configs-") as empty:
            open_pipeline = _opener(checkpoint, class_name, Path(empty), configs)
            expected = pipeline.paint(open_pipeline, class_name, one_step.guidance_scale(bundle), longest)
    except CannotOpen as error:
        return Outcome(False, f"diffusers cannot open it: {error}")
    exact = tolerances[_EXACT]
    said = f"diffusers' {class_name} paints the same, within {exact:g} standard deviations"
    rough = {name: spec.precision for name, spec in bundle.networks.items() if spec.precision != _EXACT}
    if rough:
        replaced = {name: as_read[name] for name in rough}
        compare(in_full(bundle), one_step.paint(folder, replaced), expected, tolerances)
        names = sorted(set(rough.values()))
        said += f" in {_EXACT}, " + ", ".join(f"{tolerances[name]:g} in {name}" for name in names)
    worst = compare(bundle, one_step.paint(folder), expected, tolerances)
    if any(spec.embeddings for spec in bundle.tokenizers.values()):
        said += "; its textual inversions were not looked at"
    return Outcome(True, said, worst)


def in_full(bundle: Bundle) -> Bundle:
    """The bundle as if every network was in float32."""
    networks = {name: dataclasses.replace(spec, precision=_EXACT) for name, spec in bundle.networks.items()}
    return dataclasses.replace(bundle, networks=networks)


def compare(bundle: Bundle, found: Painted, expected: Painted, tolerances: Mapping[str, float]) -> float:
    """The largest distance. Raises VerificationError naming the first thing that differs: text, step or picture."""

    def allowed(names: list[str]) -> float:
        return max(tolerances[bundle.networks[name].precision] for name in names)

    encoders = list(bundle.tokenizers)
    if found.texts.keys() != expected.texts.keys():
        raise VerificationError(f"diffusers makes {list(expected.texts)} of a prompt, the bundle {list(found.texts)}")
    stages = [(name, found.texts[name], expected.texts[name], encoders) for name in expected.texts]
    painters = [*encoders, bundle.denoiser, "vae_encoder"]
    stages.append(("latents after a step", found.latents, expected.latents, painters))
    stages.append(("picture", found.picture, expected.picture, [*painters, "vae_decoder"]))
    worst = 0.0
    for what, ours, theirs, networks in stages:
        off, tolerance = distance(ours, theirs), allowed(networks)
        if not off <= tolerance:  # NaN is not below any tolerance
            raise VerificationError(
                f"diffusers reads this checkpoint differently: {what} is off by {off:.1e} standard deviations, "
                f"{tolerance:.0e} is allowed; the bundle was not written"
            )
        worst = max(worst, off)
    return worst


def _opener(checkpoint: Checkpoint, class_name: str, empty: Path, configs: Configs) -> pipeline.Open:
    """Of the person's own files: never of the directory that we made of a single file."""
    elsewhere = _elsewhere(checkpoint)
    if checkpoint.file is None:
        return partial(opening.of_directory, checkpoint.root, class_name, elsewhere)
    configs(checkpoint.file, empty)
    return partial(opening.of_single_file, checkpoint.file.path, class_name, elsewhere, empty)


def _elsewhere(checkpoint: Checkpoint) -> opening.Elsewhere:
    """What does not lie with the rest: linked or named by the person, or said by them."""
    found: dict[str, Callable[[], Any]] = {}
    root = checkpoint.root.resolve()
    for name, part in checkpoint.components.items():
        folder = part.folder.resolve()  # what a single file lacks is linked from where it is
        outside = not folder.is_relative_to(root)
        # A single file's own schedule is read with its configs, and only what else the person named is theirs.
        said = isinstance(part, StatedComponent) and (outside or checkpoint.file is None)
        if said if name == opening.SCHEDULER else outside and name in (*opening.TEXT, *opening.PAINTERS):
            found[name] = partial(opening.part, dataclasses.replace(part, folder=folder))
    if checkpoint.vae_file is not None:
        found["vae"] = partial(opening.vae_of_file, checkpoint.vae_file, checkpoint.components["vae"].folder)
    return found


def _bytes(weights: Mapping[str, Weights]) -> int:
    """Of the larger half of the pipeline: the text encoders, or all else."""
    texts = sum(stored.parameters() for name, stored in weights.items() if name.startswith("text_encoder"))
    others = sum(stored.parameters() for name, stored in weights.items() if not name.startswith("text_encoder"))
    return _BYTES * max(texts, others)
