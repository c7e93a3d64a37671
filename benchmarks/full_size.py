"""Full-size models, really exported and run for one step on this machine, against torch. By hand: it takes an hour.

    python benchmarks/full_size.py                            all of CASES
    python benchmarks/full_size.py sd15-inpaint-fp16          some of them

For each: a checkpoint of the published architecture with random weights is made, exported (which verifies every network
against torch at three shapes), opened as the server opens it, and asked for one inpainting step; diffusers' pipeline
does the same in float32. Every stage is a process of its own, so that its peak memory is its own. Results are added to
benchmarks/results/full-size.json.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "full-size.json"
SCRATCH = ROOT / "checkpoints"
PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime")
SIDE = 512  # pixels
SEED = 7
PROMPT = "a hot air balloon over the sea"


@dataclass(frozen=True)
class Case:
    checkpoint: Mapping[str, Any]  # options of the preset's maker in examples/random_checkpoint.py
    precision: str
    pipeline: str | None  # None: it is exported only


def _t5(layers: int) -> Case:
    """T5 XXL with fewer or all of its 24 layers, beside a tiny FLUX: whose export takes how much memory."""
    sizes = {"t5_hidden": 4096, "t5_inner": 10240, "t5_heads": 64, "t5_head_size": 64, "t5_vocabulary": 32128}
    return Case({"preset": "flux-tiny", "half": True, "t5_layers": layers, **sizes}, "fp16", None)


CASES = {
    "sd15-inpaint-fp32": Case({"preset": "sd15"}, "fp32", "StableDiffusionInpaintPipeline"),
    "sd15-inpaint-fp16": Case({"preset": "sd15", "half": True}, "fp16", "StableDiffusionInpaintPipeline"),
    "sdxl-inpaint-fp16": Case({"preset": "sdxl", "half": True}, "fp16", "StableDiffusionXLInpaintPipeline"),
    "t5-3-layers-fp16": _t5(3),
    "t5-6-layers-fp16": _t5(6),
}


def main() -> None:
    if sys.argv[1:2] == ["--stage"]:
        STAGES[sys.argv[2]](CASES[sys.argv[3]], Path(sys.argv[4]))
        return
    for name in sys.argv[1:] or CASES:
        SCRATCH.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="full-size-", dir=SCRATCH) as folder:
            found = measure(name, Path(folder))
        print(json.dumps(found, indent=2), flush=True)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps({**results, name: found}, indent=2) + "\n")


def measure(name: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "side": SIDE,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    for stage in STAGES if CASES[name].pipeline else ("make", "export"):
        before = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, "--stage", stage, name, str(folder)],
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
    sys.path.insert(0, str(ROOT / "examples"))
    from random_checkpoint import MAKERS

    MAKERS[case.checkpoint["preset"]](folder / "checkpoint", **case.checkpoint)
    report()


def export(case: Case, folder: Path) -> None:
    """In a child: the memory reported is the exporter's own."""
    command = [str(Path(sys.executable).with_name("gesso-export")), str(folder / "checkpoint")]
    subprocess.run([*command, "--out", str(folder / "bundle"), "--precision", case.precision], check=True, stdout=2)
    report(resource.RUSAGE_CHILDREN)


def gesso(case: Case, folder: Path) -> None:
    """The service as it runs inside Triton, without Triton."""
    from gesso_backend.service import Service
    from gesso_backend.settings import Settings

    done, images, errors = threading.Event(), [], []

    class Channel:
        def send(self, event: Any) -> None:
            if event.event == "image":
                images.append(event.image)

        def close(self, error: Any) -> None:
            errors.append(error)
            done.set()

        def cancelled(self) -> bool:
            return False

    service = Service.load(Settings(bundle=str(folder / "bundle"), stall_seconds=3600))
    inputs = {
        "prompt": np.array([PROMPT.encode()], object),
        "image": picture(),
        "mask_image": mask(),
        "num_inference_steps": np.array([1], np.int32),
        "guidance_scale": np.array([1.0], np.float32),
        "strength": np.array([1.0], np.float32),
        "scheduler": np.array([b"ddim"], object),
        "latent_blend": np.array([False]),
        "padding_mask_crop": np.array([-1], np.int32),
        "seed": np.array([SEED], np.int64),
    }
    service.submit(inputs, Channel())
    done.wait()
    service.drain()
    assert errors == [None], errors
    np.save(folder / "ours.npy", images[0])
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


def picture() -> Any:
    """[SIDE, SIDE, 3] uint8: smooth colours."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], axis=-1).astype(np.uint8)


def mask() -> Any:
    """[SIDE, SIDE] uint8: a disc to repaint."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    return np.where((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.09, 255, 0).astype(np.uint8)


if __name__ == "__main__":
    main()
