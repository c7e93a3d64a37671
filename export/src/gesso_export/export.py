"""From a checkpoint to a bundle: one network at a time is loaded, traced, written, verified and let go."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from gesso_export import __version__, families, onnx_graph, preview, reference, staging, tokenizer
from gesso_export.checkpoint import Checkpoint
from gesso_export.embeddings import Embedding
from gesso_export.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    Bundle,
    NetworkSpec,
    PreviewRgb,
    Source,
    dumps,
)
from gesso_export.networks import Network, run
from gesso_export.progress import Progress
from gesso_export.reference import Case
from gesso_export.verify import check_network, describe_file

PRECISIONS = {"fp32": 4, "fp16": 2}  # and the bytes of a weight
# Graphs, tokenizer and reference values, which come on top of the weights.
_OVERHEAD_BYTES = 64 * 2**20
_VERSIONS = ("torch", "diffusers", "transformers", "onnx")


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: str = "fp32",
    name: str | None = None,
    license_text: str = "unknown",
    force: bool = False,
    embeddings: Sequence[Embedding] = (),
    progress: Progress | None = None,
) -> Bundle:
    """Write the bundle of `checkpoint` to the directory `out` and return its manifest.

    precision: "fp32" or "fp16". embeddings: textual inversions that prompts may name. Raises RefusedError before
    anything is written, or VerificationError when the result is not what torch computes; either way `out` is left as
    it was.
    """
    progress = progress or Progress(None)
    model = families.describe(checkpoint, embeddings)
    stored = list(model.weights.values())
    parameters = sum(weights.parameters() for weights in stored)
    with staging.staged(out, force) as folder:
        staging.check_space(folder, parameters * PRECISIONS[precision] + _OVERHEAD_BYTES)
        with progress.stage("weights", "check"):
            for weights in stored:
                weights.check_finite()
        tokenizers = {encoder: tokenizer.write(source, folder) for encoder, source in model.tokenizers.items()}
        networks, cases, preview_rgb = {}, {}, None
        for network in model.networks:
            own = "fp32" if network.keep_fp32 else precision
            spec = NetworkSpec(f"{network.name}.onnx", own, network.inputs, network.outputs)
            with progress.stage(network.name, "export"):
                cases[network.name], fitted = _export_network(network, spec, folder, model)
            preview_rgb = preview_rgb or fitted
            gc.collect()  # the traced module is full of cycles; the next stage needs its memory
            with progress.stage(network.name, "verify") as stage:
                error = check_network(folder, network.name, spec, cases[network.name])
                stage.note(f"largest error {error:.1e}")
            networks[network.name] = spec
        assert preview_rgb is not None, "every family has a VAE encoder"
        reference.save(cases, folder / reference.FILE)
        bundle = Bundle(
            schema_version=SCHEMA_VERSION,
            name=name or out.name,
            family=model.family,
            networks=networks,
            scheduler=model.scheduler,
            vae=model.vae,
            size=model.size,
            tokenizers=tokenizers,
            preview_rgb=preview_rgb,
            parameters=model.parameters,
            task_defaults=model.task_defaults,
            source=Source(checkpoint.name, checkpoint.revision, checkpoint.pipeline),
            license=license_text,
            files={
                path.relative_to(folder).as_posix(): describe_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
            exporter={
                "gesso_export": __version__,
                **{package: importlib.metadata.version(package) for package in _VERSIONS},
            },
            options=model.options,
        )
        (folder / FILE_NAME).write_text(dumps(bundle), encoding="utf-8")
    return bundle


def _export_network(
    network: Network, spec: NetworkSpec, folder: Path, model: families.Model
) -> tuple[list[Case], PreviewRgb | None]:
    """Write one network; return what the float32 module answers, and the preview matrix if it is the VAE's encoder."""
    module = network.load()
    cases = []
    for number in range(len(network.cases)):
        inputs = network.draw_inputs(number)
        cases.append(Case(inputs, dict(zip(network.outputs, run(module, inputs), strict=True))))
    fitted = None
    if network.name == "vae_encoder":
        fitted = preview.fit(lambda pictures: run(module, {"sample": pictures})[0], model.vae)
    if spec.precision == "fp16":
        module.half()
    onnx_graph.write(network, module, cases[0].inputs, folder / spec.file)
    return cases, fitted
