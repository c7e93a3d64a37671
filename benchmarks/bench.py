"""The numbers of docs/benchmarks.md: gesso beside the diffusers pipeline, same weights, steps and threads, in one run.

    python benchmarks/bench.py                      both sizes (the SD 1.5 one needs 10 GB of disk and of memory)
    python benchmarks/bench.py --sizes tiny         the tiny one alone

Every figure is a median of REPEATS; the two sides take turns, so that a noisy machine disturbs both alike. gesso is
timed as its users see it: through the SDK, gRPC and a real Triton. Absolute times depend on the machine; the ratios
are what is published.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from demo import run, serve  # noqa: E402

REPEATS = 5
SIDE = 256  # pixels
PROMPT = "a hot air balloon over the sea"
ENGINE_STAGES = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
PAGE = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- measured by `make bench` -->"


@dataclass(frozen=True)
class Size:
    name: str
    preset: str  # of examples/random_checkpoint.py
    steps: int


SIZES = (Size("tiny", "tiny", 20), Size("SD 1.5", "sd15", 4))


@dataclass(frozen=True)
class Measured:
    """Medians, in seconds."""

    size: str
    steps: int
    gesso: float  # a request through SDK, gRPC and Triton
    diffusers: float  # the same job in the eager pipeline
    overhead: float  # request time less the engine calls in it
    loop_step: float  # a step inside the loop, from progress to progress
    bare_step: float  # the denoiser's engine call alone, on the same rows

    def rows(self) -> list[tuple[str, str]]:
        return [
            ("gesso, end to end", f"{self.gesso:.3f} s"),
            ("diffusers, eager", f"{self.diffusers:.3f} s"),
            ("speed-up", f"{self.diffusers / self.gesso:.2f}x"),
            ("serving overhead of a request", f"{self.overhead * 1000:.1f} ms, {self.overhead / self.gesso:.2%}"),
            ("step inside the loop", f"{self.loop_step * 1000:.2f} ms"),
            ("bare engine call", f"{self.bare_step * 1000:.2f} ms"),
            ("loop / bare", f"{self.loop_step / self.bare_step:.3f}"),
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["tiny", "sd15"], choices=[size.preset for size in SIZES])
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "checkpoints")
    parser.add_argument("--bundles", type=Path, default=ROOT / "bundles")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    measured = [
        measure(size, *artefacts(size, options.checkpoints, options.bundles), threads)
        for size in SIZES
        if size.preset in options.sizes
    ]
    table = markdown(measured, threads)
    print(table)
    if options.write:
        results = ROOT / "benchmarks" / "results" / "first-numbers.json"
        results.parent.mkdir(exist_ok=True)
        record = {"machine": machine(threads), "measured": [asdict(m) for m in measured]}
        results.write_text(json.dumps(record, indent=2) + "\n")
        put(PAGE, MARK, table)
    return 0


def artefacts(size: Size, checkpoints: Path, bundles: Path) -> tuple[Path, Path]:
    """The checkpoint of random weights and its bundle, made when they are not there."""
    checkpoint, bundle = checkpoints / f"bench-{size.preset}", bundles / f"bench-{size.preset}"
    if not checkpoint.exists():
        run([sys.executable, str(ROOT / "examples/random_checkpoint.py"), str(checkpoint), "--preset", size.preset])
    if not bundle.exists():
        run([str(Path(sys.executable).parent / "gesso-export"), str(checkpoint), "--out", str(bundle)])
    return checkpoint, bundle


def measure(size: Size, checkpoint: Path, bundle: Path, threads: int) -> Measured:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[64:192, 64:192] = 255
    ours, theirs, overheads = side_by_side(size, checkpoint, bundle, threads, image, mask)
    loop_step, bare_step = step_times(size, bundle, threads, image, mask)
    return Measured(size.name, size.steps, median(ours), median(theirs), median(overheads), loop_step, bare_step)


def side_by_side(
    size: Size, checkpoint: Path, bundle: Path, threads: int, image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
) -> tuple[list[float], list[float], list[float]]:
    """(gesso's times, diffusers' times, gesso's time outside the engine calls)."""
    from gesso_client import Client

    pipeline = diffusers_pipeline(checkpoint, threads)
    # latent_blend off is what diffusers does: both sides run the same networks equally often.
    options = {"num_inference_steps": size.steps, "guidance_scale": 7.5, "scheduler": "ddim", "latent_blend": False}
    ours, theirs, overheads = [], [], []
    with serve(bundle) as url, Client(url) as client:
        for repeat in range(-1, REPEATS):  # the first round warms both up
            started = time.perf_counter()
            report = client.inpaint(image, mask, PROMPT, seed=repeat + 1, **options).report
            seconds = time.perf_counter() - started
            reference = timed(lambda seed=repeat + 1: pipeline(image, mask, size.steps, seed))
            if repeat >= 0:
                ours.append(seconds)
                theirs.append(reference)
                overheads.append(seconds - sum(report["timings_ms"][stage] for stage in ENGINE_STAGES) / 1000)
                print(
                    f"{size.name} {repeat + 1}/{REPEATS}: gesso {seconds:.3f} s, diffusers {reference:.3f} s",
                    flush=True,
                )
    return ours, theirs, overheads


def diffusers_pipeline(checkpoint: Path, threads: int) -> Callable[..., Any]:
    import diffusers
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def inpaint(image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], steps: int, seed: int) -> Any:
        return pipeline(
            PROMPT,
            image=Image.fromarray(image),
            mask_image=Image.fromarray(mask),
            height=SIDE,
            width=SIDE,
            num_inference_steps=steps,
            guidance_scale=7.5,
            generator=torch.Generator("cpu").manual_seed(seed),
        )

    return inpaint


def step_times(
    size: Size, bundle: Path, threads: int, image: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """(a step inside the loop, the bare denoiser call on the same rows), taking turns in this process."""
    from gesso_backend.calls import Arrays
    from gesso_backend.errors import RequestError
    from gesso_backend.events import Event
    from gesso_backend.service import Service
    from gesso_backend.settings import Settings

    class Channel:
        def __init__(self) -> None:
            self.times: list[float] = []
            self.done = threading.Event()

        def send(self, event: Event) -> None:
            if event.event == "progress":
                self.times.append(time.perf_counter())

        def close(self, error: RequestError | None) -> None:
            assert error is None, error
            self.done.set()

        def cancelled(self) -> bool:
            return False

    service = Service.load(Settings(bundle=str(bundle), threads=threads))
    engine = service.engines["unet"]
    rows: Arrays = {
        name: np.random.default_rng(0).standard_normal([s if isinstance(s, int) else 2 if s == "batch" else SIDE // 8
              for s in spec.shape]).astype(spec.dtype)
        for name, spec in service.bundle.networks["unet"].inputs.items()
    }  # fmt: skip
    inputs = {"prompt": text(PROMPT), "image": image, "mask_image": mask, "scheduler": text("ddim")}
    inputs["num_inference_steps"] = np.array([size.steps], np.int32)
    in_loop, bare = [], []
    for repeat in range(-1, REPEATS):
        channel = Channel()
        service.submit(inputs, channel)
        channel.done.wait()
        calls = [timed(lambda: engine(**rows)) for _ in range(size.steps)]
        if repeat >= 0:
            in_loop.append(median(np.diff(channel.times).tolist()))
            bare.append(median(calls))
    service.drain()
    return median(in_loop), median(bare)


def text(value: str) -> np.ndarray[Any, Any]:
    return np.array([value.encode()], np.object_)


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def median(values: list[float]) -> float:
    return statistics.median(values)


def machine(threads: int) -> Mapping[str, Any]:
    names = ("torch", "diffusers", "onnxruntime", "numpy", "tritonclient")
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    return {
        "cpu": model,
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def put(page: Path, mark: str, text: str) -> None:
    """Put `text` between the two places of a page that have the mark."""
    before, _, after = page.read_text(encoding="utf-8").split(mark)
    page.write_text(f"{before}{mark}\n{text}\n{mark}{after}", encoding="utf-8")


def markdown(measured: list[Measured], threads: int) -> str:
    about = ", ".join(f"{key} {value}" for key, value in machine(threads).items())
    head = f"| {SIDE} px, guidance 7.5 | " + " | ".join(f"{m.size}, {m.steps} steps" for m in measured) + " |"
    lines = [head, "|---" * (len(measured) + 1) + "|"]
    for cells in zip(*(m.rows() for m in measured), strict=True):
        lines.append(f"| {cells[0][0]} | " + " | ".join(value for _, value in cells) + " |")
    return "\n".join([*lines, "", f"Machine and versions: {about}."])


if __name__ == "__main__":
    sys.exit(main())
