"""All of a GPU's numbers, in one report: build, verify, serve, compare, benchmark (`make bench-gpu`).

    python -m benchmarks gpu                              SD 1.5 and SDXL inpainting, random weights, fp16
    python -m benchmarks gpu --models sd15 --engines onnxruntime
    python -m benchmarks gpu --dry-run --out /tmp/report  the same on a CPU, with a tiny model: that it all runs

Where TensorRT is installed its engines are built and published first (`gesso-export engines`, which verifies each
against ONNX Runtime on the same GPU); without it ONNX Runtime's CUDA provider is measured alone. Where Triton is
installed the model is served and asked once more. The report says what ran, what did not and why; the targets are
judged on an H100 only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gpu import engines, report
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.measure import measure
from benchmarks.gpu.model import MODELS
from benchmarks.gpu.targets import judged
from benchmarks.harness.artefacts import random_bundle
from benchmarks.harness.paths import RESULTS, ROOT
from benchmarks.harness.pictures import Pixels


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl"], choices=sorted(MODELS))
    parser.add_argument("--engines", nargs="+", choices=("onnxruntime", "tensorrt"), help="(all that can run here)")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--scratch", type=Path, default=ROOT, help="the folder of checkpoints/ and bundles/")
    parser.add_argument("--no-serve", action="store_true", help="without Triton")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a tiny model")
    options = parser.parse_args(arguments)
    names = ["tiny"] if options.dry_run else options.models
    device = "CPU (dry run)" if options.dry_run else engines.gpu_name(options.device)
    chosen = options.engines or (["onnxruntime"] if options.dry_run else engines.available())
    findings, pictures = list[Findings](), dict[str, Pixels]()
    for name in names:
        model = MODELS[name]
        bundle = random_bundle(
            f"gpu-{name}", model.preset, half=model.half, precision=model.precision, scratch=options.scratch
        )
        for engine in chosen:
            found = Findings(name, engine)
            try:
                picture = measure(found, model, bundle, engine, options)
            except Exception as error:  # one engine's failure is a finding; the others are still measured
                found.notes.append(f"failed: {type(error).__name__}: {error}")
            else:
                found.difference = difference(picture, pictures.setdefault(name, picture))
            findings.append(found)
            report.write(options.out, device, findings, options.dry_run)
    print(report.write(options.out, device, findings, options.dry_run))
    missed = [target for target in judged(findings, device) if target.met is False]
    return 1 if missed or any(note.startswith("failed") for found in findings for note in found.notes) else 0


def difference(picture: Pixels, reference: Pixels) -> dict[str, float]:
    off = np.abs(picture.astype(int) - reference.astype(int))
    return {"largest": float(off.max()), "mean": round(float(off.mean()), 4)}
