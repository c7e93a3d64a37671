"""Full-size models, really exported and run for one step on this machine, against torch.

    python -m benchmarks full_size                            all of CASES
    python -m benchmarks full_size sd15-inpaint-fp16          some of them

By hand: it takes an hour. For each: a checkpoint of the published architecture with random weights is made, exported
(which verifies every network against torch at three shapes), opened as the server opens it, and asked for one
inpainting step; diffusers' pipeline does the same in float32. Every stage is a process of its own, so that its peak
memory is its own. Results are added to benchmarks/results/full-size.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.artefacts import MAKER
from benchmarks.harness.machine import threads, versions
from benchmarks.harness.paths import BIN, CHECKPOINTS, RESULTS, ROOT
from benchmarks.harness.pictures import Pixels
from benchmarks.harness.tensors import tensors

FILE = RESULTS / "full-size.json"
PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")
SIDE = 512  # pixels
SEED = 7
PROMPT = "a hot air balloon over the sea"


@dataclass(frozen=True)
class Case:
    """preset, half and architecture: options of examples/random_checkpoint.py."""

    preset: str
    pipeline: str | None  # None: it is exported only
    half: bool = True
    precision: str = "fp16"
    architecture: Mapping[str, int] = field(default_factory=dict)


def _t5(layers: int) -> Case:
    """T5 XXL with fewer or all of its 24 layers, beside a tiny FLUX: whose export takes how much memory."""
    sizes = {"t5_hidden": 4096, "t5_inner": 10240, "t5_heads": 64, "t5_head_size": 64, "t5_vocabulary": 32128}
    return Case("flux-tiny", None, architecture={"t5_layers": layers, **sizes})


CASES = {
    "sd15-inpaint-fp32": Case("sd15", "StableDiffusionInpaintPipeline", half=False, precision="fp32"),
    "sd15-inpaint-fp16": Case("sd15", "StableDiffusionInpaintPipeline"),
    "sdxl-inpaint-fp16": Case("sdxl", "StableDiffusionXLInpaintPipeline"),
    "t5-3-layers-fp16": _t5(3),
    "t5-6-layers-fp16": _t5(6),
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (all)")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # this program's own use, with --folder
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if options.stage:
        STAGES[options.stage](CASES[options.cases[0]], options.folder)
        return 0
    for name in options.cases or CASES:
        CHECKPOINTS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="full-size-", dir=CHECKPOINTS) as folder:
            found = measure(name, Path(folder))
        print(json.dumps(found, indent=2), flush=True)
        results = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps({**results, name: found}, indent=2) + "\n")
    return 0


def measure(name: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "side": SIDE,
        "cores": threads(),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
    }
    for stage in STAGES if CASES[name].pipeline else ("make", "export"):
        before = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "full_size", name, "--stage", stage, "--folder", str(folder)],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(f"{name} {stage}: {done.stdout.strip()}", flush=True)
        found[stage] = {"seconds": round(time.monotonic() - before, 1), **json.loads(done.stdout.splitlines()[-1])}
        if stage == "export":
            bundle = sum(file.stat().st_size for file in (folder / "bundle").rglob("*"))
            found["bundle_gb"] = round(bundle / 1e9, 2)
    if CASES[name].pipeline is None:
        return found
    ours, theirs = (np.load(folder / f"{side}.npy").astype(int) for side in ("ours", "theirs"))
    painted = mask() > 0
    difference = np.abs(ours - theirs)[painted]
    found["difference_max"], found["difference_mean"] = int(difference.max()), round(float(difference.mean()), 4)
    found["spread"] = round(float(theirs[painted].std()), 2)  # a flat picture would prove nothing
    found["changed_outside_mask"] = int((ours != picture())[~painted].any(axis=-1).sum())
    return found


def make(case: Case, folder: Path) -> None:
    """In a child, as the exporter: the memory reported is the maker's own."""
    command = [sys.executable, str(MAKER), str(folder / "checkpoint"), "--preset", case.preset]
    command += ["--architecture", json.dumps(dict(case.architecture)), *(["--half"] if case.half else [])]
    subprocess.run(command, check=True, stdout=2)
    report(resource.RUSAGE_CHILDREN)


def export(case: Case, folder: Path) -> None:
    """In a child: the memory reported is the exporter's own."""
    command = [str(BIN / "gesso-export"), str(folder / "checkpoint"), "--out", str(folder / "bundle")]
    subprocess.run([*command, "--precision", case.precision], check=True, stdout=2)
    report(resource.RUSAGE_CHILDREN)


def gesso(case: Case, folder: Path) -> None:
    """The service as it runs inside Triton, without Triton."""
    from benchmarks.harness import in_process

    service = in_process.open_service(bundle=str(folder / "bundle"), stall_seconds=3600)
    inputs = tensors(
        picture(), mask(), PROMPT, num_inference_steps=1, guidance_scale=1.0, strength=1.0, scheduler="ddim",
        latent_blend=False, padding_mask_crop=-1, seed=SEED,
    )  # fmt: skip
    painted = in_process.submit(service, inputs)()
    service.drain()
    np.save(folder / "ours.npy", painted.picture)
    report()


def torch(case: Case, folder: Path) -> None:
    """diffusers in float32, on the weights as they are stored."""
    import diffusers
    import torch
    from PIL import Image

    pipeline = getattr(diffusers, str(case.pipeline)).from_pretrained(
        folder / "checkpoint", torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    painted = pipeline(
        prompt=PROMPT, image=Image.fromarray(picture()), mask_image=Image.fromarray(mask()), height=SIDE, width=SIDE,
        num_inference_steps=1, guidance_scale=1.0, strength=1.0, generator=torch.Generator("cpu").manual_seed(SEED),
    )  # fmt: skip
    np.save(folder / "theirs.npy", np.asarray(painted.images[0]))
    shutil.rmtree(folder / "checkpoint")
    report()


STAGES = {"make": make, "export": export, "gesso": gesso, "torch": torch}


def report(who: int = resource.RUSAGE_SELF) -> None:
    print(json.dumps({"peak_gb": round(resource.getrusage(who).ru_maxrss * 1024 / 1e9, 2)}))


def picture() -> Pixels:
    """[SIDE, SIDE, 3] uint8: smooth colours."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], axis=-1).astype(np.uint8)


def mask() -> Pixels:
    """[SIDE, SIDE] uint8: a disc to repaint."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return np.where((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.09, 255, 0).astype(np.uint8)
