"""From a checkpoint to a bundle: one network at a time is loaded, traced, written, verified and let go."""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gesso_export import __version__
from gesso_export.bundle import checked, files, preview, staging
from gesso_export.bundle.manifest import (
    FILE_NAME,
    KIND,
    SCHEMA_VERSION,
    Bundle,
    NetworkSpec,
    PreviewRgb,
    Source,
    dumps,
)
from gesso_export.checkpoint import tokenizer
from gesso_export.checkpoint.checkpoint import Checkpoint
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.examination import Examination, abridged, examine
from gesso_export.families import Model
from gesso_export.networks.module import run
from gesso_export.networks.network import Network, Role
from gesso_export.precision import DEFAULT, PRECISIONS, picture_tolerances
from gesso_export.precision.precision import Draft, Precision
from gesso_export.progress import Progress
from gesso_export.proof import independent, reference, verify
from gesso_export.proof.reference import Array, Arrays, Case
from gesso_export.published import configs

# Graphs, tokenizer and reference values, which come on top of the weights.
_OVERHEAD_BYTES = 64 * 2**20
_VERSIONS = ("torch", "diffusers", "transformers", "onnx")


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: str = DEFAULT,
    name: str | None = None,
    license_text: str = "unknown",
    force: bool = False,
    embeddings: Sequence[Embedding] = (),
    independent_check: bool = True,
    progress: Progress | None = None,
) -> Bundle:
    """Write the bundle of `checkpoint` to the directory `out` and return its manifest.

    precision: one of PRECISIONS; networks that it is not for are float32. embeddings: textual inversions that prompts
    may name. independent_check: whether diffusers' own pipeline has to paint the same; the bundle's summary says what
    came of it. Raises RefusedError before anything is written, or VerificationError when the result is not what torch
    or that pipeline computes, or does not pass the gate of its precision; either way `out` is left as it was.
    """
    progress = progress or Progress(None)
    found = examine(checkpoint, embeddings)
    needed = room(found, precision)
    model, wanted = found.model, PRECISIONS[precision]
    assert model is not None, "nothing was refused"
    if found.left_out:
        progress.note(f"left out, as diffusers does: {abridged(found.left_out)}")
    stored = list(model.weights.values())
    with staging.staged(out, force) as folder:
        staging.check_space(folder, needed)
        with progress.stage("weights", "check"):
            for weights in stored:
                weights.check_finite()
        draft = Draft(
            folder, model, {name: tokenizer.write(source, folder) for name, source in model.tokenizers.items()}
        )
        preview_rgb = _write_networks(draft, wanted, progress)
        reference.save(draft.cases, folder / reference.FILE)
        bundle = Bundle(
            schema_version=SCHEMA_VERSION,
            kind=KIND,
            name=name or out.name,
            family=model.family,
            networks=draft.networks,
            denoiser=model.denoiser.name,
            native_inpainting=model.native_inpainting,
            scheduler=model.scheduler,
            vae=model.vae,
            size=model.size,
            tokenizers=draft.tokenizers,
            preview_rgb=preview_rgb,
            parameters=model.parameters,
            task_defaults=model.task_defaults,
            source=Source(checkpoint.name, checkpoint.revision, checkpoint.pipeline),
            license=license_text,
            files=files.describe(folder),
            exporter={
                "gesso_export": __version__,
                **{package: importlib.metadata.version(package) for package in _VERSIONS},
            },
            options=model.options,
        )
        (folder / FILE_NAME).write_text(dumps(bundle), encoding="utf-8")
        if independent_check:
            del draft
            gc.collect()
            with progress.stage("diffusers", "compare") as stage:
                as_read = {network.name: partial(_answer, network) for network in model.networks}
                outcome = independent.check(
                    folder, checkpoint, model.weights, as_read, picture_tolerances(), configs.write
                )
                stage.note(f"largest error {outcome.worst:.1e}" if outcome.verified else str(outcome))
        else:
            outcome = independent.LEFT_OUT
        bundle = dataclasses.replace(bundle, exporter={**bundle.exporter, checked.KEY: str(outcome)})
        (folder / FILE_NAME).write_text(dumps(bundle), encoding="utf-8")
    return bundle


def room(found: Examination, precision: str) -> int:
    """Bytes that a bundle of what was found takes while it is made.

    Raises CheckpointError for what is refused, and for a precision that the model is not served in.
    """
    found.check()
    assert found.model is not None, "nothing was refused"
    wanted = PRECISIONS[precision]
    wanted.check(found.model)
    parameters = sum(stored.parameters for stored in found.stored.values())
    return int(parameters * wanted.bytes_per_weight) + _OVERHEAD_BYTES


def _answer(network: Network, inputs: Arrays) -> list[Array]:
    return run(network.load(), inputs)


def _write_networks(draft: Draft, wanted: Precision, progress: Progress) -> PreviewRgb:
    """Write every network, verify it, and have it pass its gate; returns the preview that was fitted on the way."""
    model, preview_rgb = draft.model, None
    precisions = {
        network.name: wanted if wanted.applies(network) else PRECISIONS[DEFAULT] for network in model.networks
    }
    for network in model.networks:
        with progress.stage(network.name, "export"):
            spec, cases, fitted = _write_network(network, precisions[network.name], draft.folder, model)
        preview_rgb = preview_rgb or fitted
        gc.collect()  # the traced module is full of cycles; the next stage needs its memory
        with progress.stage(network.name, "verify") as stage:
            second = (draft.folder / spec.cpu_file).is_file()
            tolerance = PRECISIONS[spec.precision].tolerance
            error = verify.check_graphs(draft.folder, network.name, spec, cases, tolerance, second=second)
            stage.note(f"largest error {error:.1e}")
        draft.networks[network.name], draft.cases[network.name] = spec, cases
    for name, precision in precisions.items():
        if precision.gate is not None:
            with progress.stage(name, precision.name) as stage:
                passed = precision.gate(draft, name)
                stage.note(passed.quality)
            draft.networks[name], draft.cases[name] = passed.network, passed.cases
    assert preview_rgb is not None, "every family has a VAE encoder"
    return preview_rgb


def _write_network(
    network: Network, precision: Precision, folder: Path, model: Model
) -> tuple[NetworkSpec, list[Case], PreviewRgb | None]:
    """Write one network; returns what float32 answers, and the preview if it is the one that encodes pictures."""
    module = network.load()
    cases = []
    for number in range(len(network.cases)):
        inputs = network.draw_inputs(number)
        cases.append(Case(inputs, dict(zip(network.outputs, run(module, inputs), strict=True))))
    fitted = None
    if network.role is Role.IMAGE_ENCODER:
        (pixels,) = network.inputs
        fitted = preview.fit(lambda pictures: run(module, {pixels: pictures})[0], model.vae)
    return precision.write(network, module, cases[0].inputs, folder), cases, fitted
