"""From a checkpoint to a bundle: one network at a time is loaded, traced, written, verified and let go."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from gesso_export import __version__, families, fused_attention, onnx_graph, preview, reference, staging, tokenizer
from gesso_export.checkpoint import Checkpoint
from gesso_export.embeddings import Embedding
from gesso_export.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    Bundle,
    NetworkSpec,
    PreviewRgb,
    Source,
    TokenizerSpec,
    dumps,
)
from gesso_export.networks import Network, run
from gesso_export.progress import Progress
from gesso_export.reference import Case
from gesso_export.verify import answered, check_network, cpu_graph, describe_file

PRECISIONS = {"fp32": 4, "fp16": 2, "int8": 5}  # and the bytes of a weight while the bundle is made
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

    precision: "fp32", "fp16" or "int8" (the denoiser, the rest stays fp32). embeddings: textual inversions that prompts
    may name. Raises RefusedError before anything is written, or VerificationError when the result is not what torch
    computes, or as int8 too far from it; either way `out` is left as it was.
    """
    progress = progress or Progress(None)
    model = families.describe(checkpoint, embeddings)
    if precision == "int8":
        from gesso_export import int8  # onnxruntime's quantizer takes a second to import

        int8.check_family(model.family)
    stored = list(model.weights.values())
    parameters = sum(weights.parameters() for weights in stored)
    with staging.staged(out, force) as folder:
        staging.check_space(folder, parameters * PRECISIONS[precision] + _OVERHEAD_BYTES)
        with progress.stage("weights", "check"):
            for weights in stored:
                weights.check_finite()
        tokenizers = {encoder: tokenizer.write(source, folder) for encoder, source in model.tokenizers.items()}
        networks: dict[str, NetworkSpec] = {}
        cases: dict[str, list[Case]] = {}
        preview_rgb = None
        for network in model.networks:
            own = "fp32" if network.keep_fp32 or precision == "int8" else precision
            spec = NetworkSpec(f"{network.name}.onnx", own, network.inputs, network.outputs)
            with progress.stage(network.name, "export"):
                cases[network.name], fitted = _export_network(network, spec, folder, model)
            preview_rgb = preview_rgb or fitted
            gc.collect()  # the traced module is full of cycles; the next stage needs its memory
            with progress.stage(network.name, "verify") as stage:
                error = check_network(folder, network.name, spec, cases[network.name])
                # The denoiser alone: a VAE has one small attention, and gains nothing. fp16 is not what a CPU runs.
                denoiser = "timestep" in network.inputs
                if denoiser and own == "fp32" and fused_attention.write(folder / spec.file):
                    error = max(error, check_network(folder, network.name, cpu_graph(spec), cases[network.name]))
                stage.note(f"largest error {error:.1e}")
            networks[network.name] = spec
        assert preview_rgb is not None, "every family has a VAE encoder"
        if precision == "int8":
            networks["unet"] = _to_int8(folder, networks, tokenizers["text_encoder"], model, cases, progress)
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


def _to_int8(
    folder: Path,
    networks: Mapping[str, NetworkSpec],
    tokenizer_spec: TokenizerSpec,
    model: families.Model,
    cases: dict[str, list[Case]],
    progress: Progress,
) -> NetworkSpec:
    """The denoiser, which is written in float32, made int8 and judged; its reference answers become its own."""
    from gesso_export import int8, painting

    painter = painting.Painter.of(folder, networks, tokenizer_spec, model.scheduler, model.vae, model.size)
    with progress.stage("unet", "int8") as stage:
        spec, quality = int8.quantize(folder, networks["unet"], painter)
        cases["unet"] = [answered(folder / spec.file, case) for case in cases["unet"]]
        check_network(folder, "unet", spec, cases["unet"])
        stage.note(f"noise_pred off by {quality.noise_error:.3f}, worst picture {quality.psnr:.1f} dB")
    return spec
