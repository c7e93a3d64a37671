"""gesso beside its peers on a CPU: the same weights, steps and threads, for docs/cpu.md. By hand: half an hour.

    python benchmarks/peers.py prepare                what each side needs: environments, checkpoint, bundle, exports
    python benchmarks/peers.py measure                gesso beside each of them, at 256 and 512 px
    python benchmarks/peers.py write                  the table of docs/cpu.md from what was measured

gesso is asked through its SDK, gRPC and a real Triton. Its peers: diffusers as it is and with torch.compile; optimum's
ONNX Runtime pipeline; OpenVINO GenAI. The last two live in environments of their own (`.venv-peers/`), since they need
older packages. gesso and one peer stand loaded and take turns, picture by picture, so that a machine that slows down
slows both; what counts is the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import turns

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "cpu.md"
MARK = "<!-- measured by benchmarks/peers.py -->"
ENVIRONMENTS = ROOT / ".venv-peers"
EXPORTS = ENVIRONMENTS / "exports"
CHECKPOINT = ROOT / "checkpoints" / "bench-sd15"
BUNDLE = ROOT / "bundles" / "bench-sd15"
TURNS = {256: 3, 512: 2}  # by pixels
GUIDANCE = 7.5
Paint = Callable[[np.ndarray, np.ndarray, int, int], Any]  # picture, mask, steps, seed


@dataclass(frozen=True)
class Size:
    side: int  # pixels
    steps: int


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    packages: tuple[str, ...] = ()  # of its own environment; none: gesso's serves it
    export: tuple[str, ...] = ()  # how its files are made from the checkpoint


SIZES = (Size(256, 8), Size(512, 3))
PEERS = (
    Peer("gesso", "gesso, through Triton and the SDK"),
    Peer("diffusers", "diffusers, eager"),
    Peer("compile", "diffusers, torch.compile"),
    Peer(
        "optimum",
        "optimum, ONNX Runtime",
        ("optimum-onnx==0.1.0", "torch==2.13.0", "transformers==4.57.3", "diffusers==0.35.2", "onnxruntime==1.31.0",
         "accelerate", "numpy<2"),
        ("optimum-cli", "export", "onnx", "--no-post-process", "--task", "inpainting"),
    ),
    Peer(
        "openvino",
        "OpenVINO GenAI",
        ("openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "torch==2.13.0", "transformers==4.57.3",
         "diffusers==0.35.2"),
        ("optimum-cli", "export", "openvino", "--weight-format", "fp32", "--task", "inpainting"),
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare")
    commands.add_parser("write")
    measuring = commands.add_parser("measure")
    others = [peer.name for peer in PEERS[1:]]
    measuring.add_argument("--peers", nargs="+", default=others, choices=others)
    measuring.add_argument("--pixels", nargs="+", type=int, default=[size.side for size in SIZES])
    worker = commands.add_parser("worker")  # one side in its own process: this script's own use
    worker.add_argument("name")
    worker.add_argument("pixels", type=int)
    options = parser.parse_args()
    if options.command == "worker":
        WORKERS[options.name](next(size for size in SIZES if size.side == options.pixels))
    elif options.command == "prepare":
        prepare()
    elif options.command == "measure":
        for size in SIZES:
            for name in options.peers if size.side in options.pixels else ():
                measure(size, name)
    else:
        write()
    return 0


def prepare() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bench

    bench.artefacts(bench.SIZES[1], CHECKPOINT.parent, BUNDLE.parent)
    for peer in PEERS:
        if not peer.packages:
            continue
        environment, made = ENVIRONMENTS / peer.name, EXPORTS / peer.name
        if not (environment / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            subprocess.run([str(environment / "bin/pip"), "install", "--quiet", *peer.packages], check=True)
            # It comes with optimum-intel, no pipeline here needs it, and it does not load beside a torch without CUDA.
            subprocess.run([str(environment / "bin/pip"), "uninstall", "--quiet", "--yes", "torchvision"], check=True)
            (environment / "ready").touch()
        if not (made / "model_index.json").exists():
            program = str(environment / "bin" / peer.export[0])
            partial = made.with_name(f".{made.name}.partial")
            command = [program, *peer.export[1:], "--model", f"{CHECKPOINT}/", str(partial)]
            subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            partial.rename(made)


def measure(size: Size, name: str) -> None:
    """gesso and a peer, by turns; the first of each warms it up."""
    with worker("gesso", size) as gesso, worker(name, size) as peer:
        pairs = []
        for seed in range(TURNS[size.side] + 1):
            if seed % 2:
                ours, theirs = gesso(seed), peer(seed)
            else:
                theirs, ours = peer(seed), gesso(seed)
            pairs.append((ours, theirs))
    run = {
        "peer": name,
        "pixels": size.side,
        "steps": size.steps,
        "first": pairs[0][1]["seconds"],
        "seconds": [theirs["seconds"] for _, theirs in pairs[1:]],
        "gesso": [ours["seconds"] for ours, _ in pairs[1:]],
        "versions": {"gesso": pairs[0][0]["versions"], name: pairs[0][1]["versions"]},
    }
    print(json.dumps(run), flush=True)
    kept = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    kept = [old for old in kept if (old["peer"], old["pixels"]) != (name, size.side)]
    RESULTS.write_text(json.dumps({"machine": machine(), "runs": [*kept, run]}, indent=2) + "\n")


def worker(name: str, size: Size) -> AbstractContextManager[Callable[[int], Any]]:
    """A process with a side loaded; call it with a seed to have a picture painted and timed."""
    peer = next(peer for peer in PEERS if peer.name == name)
    python = str(ENVIRONMENTS / name / "bin" / "python") if peer.packages else sys.executable
    return turns.side([python, __file__, "worker", name, str(size.side)])


def serve_turns(paint: Paint, size: Size, versions: Mapping[str, str]) -> None:
    """Paint a picture for each seed on standard input. Each is new: a side that keeps answers gains nothing by it."""
    mask = np.zeros((size.side, size.side), np.uint8)
    mask[size.side // 4 : -size.side // 4, size.side // 4 : -size.side // 4] = 255
    for line in sys.stdin:
        seed = int(line)
        picture = np.random.default_rng(seed).integers(0, 255, (size.side, size.side, 3), dtype=np.uint8)
        started = time.perf_counter()
        paint(picture, mask, size.steps, seed)
        seconds = round(time.perf_counter() - started, 4)
        turns.answer({"seconds": seconds, "versions": versions})


def prompt(seed: int) -> str:
    """A new one for each picture, as the picture is."""
    return f"a hot air balloon over the sea, number {seed}"


def gesso(size: Size) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    from importlib.metadata import version

    from demo import serve
    from gesso_client import Client

    # Whole pictures and no blending of latents: all sides run the same networks equally often, at the same size.
    fixed = {"guidance_scale": GUIDANCE, "scheduler": "ddim", "latent_blend": False, "padding_mask_crop": -1}
    with serve(BUNDLE) as url, Client(url) as client:
        serve_turns(
            lambda picture, mask, steps, seed: client.inpaint(
                picture, mask, prompt(seed), seed=seed, num_inference_steps=steps, **fixed
            ),
            size,
            {"onnxruntime": version("onnxruntime")},
        )


def diffusers(size: Size, compiled: bool = False) -> None:
    import diffusers
    import torch

    torch.set_num_threads(threads())
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(CHECKPOINT, local_files_only=True)
    if compiled:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
        pipeline.vae.encoder.compile()
    serve_turns(pipeline_paint(pipeline), size, {"diffusers": diffusers.__version__, "torch": torch.__version__})


def optimum(size: Size) -> None:
    from importlib.metadata import version

    import onnxruntime
    from optimum.onnxruntime import ORTStableDiffusionInpaintPipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    pipeline = ORTStableDiffusionInpaintPipeline.from_pretrained(EXPORTS / "optimum", session_options=options)
    packages = ("optimum-onnx", "onnxruntime", "diffusers")
    serve_turns(pipeline_paint(pipeline), size, {name: version(name) for name in packages})


def pipeline_paint(pipeline: Any) -> Paint:
    """A pipeline of diffusers' kind as all sides are called."""
    import torch
    from diffusers import DDIMScheduler
    from PIL import Image

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return lambda picture, mask, steps, seed: pipeline(
        prompt(seed),
        image=Image.fromarray(picture),
        mask_image=Image.fromarray(mask),
        height=picture.shape[0],
        width=picture.shape[1],
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
    )


def openvino(size: Size) -> None:
    from importlib.metadata import version

    import openvino
    import openvino_genai

    pipeline = openvino_genai.InpaintingPipeline(str(EXPORTS / "openvino"))
    pipeline.set_scheduler(
        openvino_genai.Scheduler.from_config(
            str(EXPORTS / "openvino" / "scheduler" / "scheduler_config.json"), openvino_genai.Scheduler.Type.DDIM
        )
    )
    pipeline.reshape(1, size.side, size.side, GUIDANCE)
    fixed = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads(), "PERFORMANCE_HINT": "LATENCY"}
    pipeline.compile("CPU", **fixed)

    def paint(picture: np.ndarray, mask: np.ndarray, steps: int, seed: int) -> Any:
        return pipeline.generate(
            prompt(seed),
            openvino.Tensor(picture[None]),
            openvino.Tensor(np.repeat(mask[None, :, :, None], 3, axis=3)),
            strength=1.0,
            width=size.side,
            height=size.side,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            rng_seed=seed,
        )

    serve_turns(paint, size, {"openvino-genai": version("openvino-genai"), "openvino": version("openvino")})


WORKERS: dict[str, Callable[[Size], None]] = {
    "gesso": gesso,
    "diffusers": diffusers,
    "compile": lambda size: diffusers(size, compiled=True),
    "optimum": optimum,
    "openvino": openvino,
}


def write() -> None:
    """Put the table into docs/cpu.md."""
    from bench import put  # here: the workers, in environments of their own, have none of what it imports

    results = json.loads(RESULTS.read_text())
    titles = {peer.name: peer.title for peer in PEERS}
    columns = [f"{size.side} px, {size.steps} steps | gesso beside it | gesso is faster by" for size in SIZES]
    lines = ["| guidance 7.5 | " + " | ".join(columns) + " |", "|---" * (3 * len(SIZES) + 1) + "|"]
    for peer in PEERS[1:]:
        cells = []
        for size in SIZES:
            run = next((r for r in results["runs"] if (r["peer"], r["pixels"]) == (peer.name, size.side)), None)
            if run is None:
                cells += ["not measured", "", ""]
                continue
            ratio = statistics.median(theirs / ours for theirs, ours in zip(run["seconds"], run["gesso"], strict=True))
            seconds = (statistics.median(run[key]) for key in ("seconds", "gesso"))
            cells += [*(f"{value:.2f} s" for value in seconds), f"{ratio:.2f}x"]
        lines.append(f"| {peer.title} | " + " | ".join(cells) + " |")
    used = {titles[name]: versions for run in results["runs"] for name, versions in run["versions"].items()}
    about = [f"{key} {value}" for key, value in results["machine"].items()]
    about = [", ".join(about)] + [
        f"{title}: " + ", ".join(f"{name} {number}" for name, number in versions.items())
        for title, versions in used.items()
    ]
    put(PAGE, MARK, "\n".join([*lines, "", f"Machine and versions: {'; '.join(about)}."]))


def threads() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    return {"cpu": model, "threads": threads()}


if __name__ == "__main__":
    sys.exit(main())
