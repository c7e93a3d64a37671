"""gesso beside its peers on a CPU: the same weights, steps and threads, in one run, for docs/cpu.md. By hand: an hour.

    python benchmarks/peers.py prepare                what each side needs: environments, checkpoint, bundle, exports
    python benchmarks/peers.py measure --round 1      every side at 256 and 512 px once more (rounds add up)
    python benchmarks/peers.py write                  the table of docs/cpu.md from what was measured

Sides: gesso through its SDK, gRPC and a real Triton; diffusers as it is and with torch.compile; optimum's ONNX Runtime
pipeline; OpenVINO GenAI. The last two live in environments of their own (`.venv-peers/`), since they need older
packages. Five copies of SD 1.5 do not fit in memory at once, so a side is started, warmed up, timed REPEATS times and
stopped, and then the next: a round. The order turns from round to round. What is there already is not made or measured
again.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "cpu.md"
MARK = "<!-- measured by benchmarks/peers.py -->"
ENVIRONMENTS = ROOT / ".venv-peers"
EXPORTS = ENVIRONMENTS / "exports"
CHECKPOINT = ROOT / "checkpoints" / "bench-sd15"
BUNDLE = ROOT / "bundles" / "bench-sd15"
REPEATS = 2
PROMPT = "a hot air balloon over the sea"
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


SIZES = (Size(256, 4), Size(512, 2))
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
    measuring.add_argument("--round", type=int, required=True)
    measuring.add_argument("--sides", nargs="+", default=[p.name for p in PEERS], choices=[p.name for p in PEERS])
    measuring.add_argument("--pixels", nargs="+", type=int, default=[s.side for s in SIZES])
    worker = commands.add_parser("worker")  # one side in its own process: this script's own use
    worker.add_argument("name")
    worker.add_argument("pixels", type=int)
    options = parser.parse_args()
    if options.command == "worker":
        print(json.dumps(WORKERS[options.name](next(s for s in SIZES if s.side == options.pixels))))
    elif options.command == "prepare":
        prepare()
    elif options.command == "measure":
        for size in SIZES:
            if size.side in options.pixels:
                measure(size, options.round, options.sides)
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


def measure(size: Size, number: int, names: list[str]) -> None:
    """Time every side that this round has not timed yet."""
    order = [peer for peer in PEERS if peer.name in names]
    turn = number % len(order)
    for peer in order[turn:] + order[:turn]:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": machine(), "runs": []}
        if any((r["side"], r["pixels"], r["round"]) == (peer.name, size.side, number) for r in results["runs"]):
            continue
        python = ENVIRONMENTS / peer.name / "bin" / "python" if peer.packages else sys.executable
        done = subprocess.run(
            [str(python), __file__, "worker", peer.name, str(size.side)], stdout=subprocess.PIPE, text=True
        )
        said = done.stdout.strip().splitlines()
        found = json.loads(said[-1]) if done.returncode == 0 else {"failed": f"exit status {done.returncode}"}
        run = {"side": peer.name, "pixels": size.side, "round": number, "steps": size.steps, **found}
        print(run, flush=True)
        results["runs"].append(run)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def timed(paint: Paint, size: Size, **more: Any) -> dict[str, Any]:
    """Warm up with the very shapes, then time REPEATS pictures."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (size.side, size.side, 3), dtype=np.uint8)
    mask = np.zeros((size.side, size.side), np.uint8)
    mask[size.side // 4 : -size.side // 4, size.side // 4 : -size.side // 4] = 255
    times = []
    for seed in range(REPEATS + 1):
        started = time.perf_counter()
        paint(picture, mask, size.steps, seed)
        times.append(round(time.perf_counter() - started, 4))
    return {"first": times[0], "seconds": times[1:], "threads": threads(), **more}


def gesso(size: Size) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "examples"))
    from importlib.metadata import version

    from demo import serve
    from gesso_client import Client

    # Whole pictures and no blending of latents: all sides run the same networks equally often, at the same size.
    fixed = {"guidance_scale": GUIDANCE, "scheduler": "ddim", "latent_blend": False, "padding_mask_crop": -1}
    with serve(BUNDLE) as url, Client(url) as client:
        return timed(
            lambda picture, mask, steps, seed: client.inpaint(
                picture, mask, PROMPT, seed=seed, num_inference_steps=steps, **fixed
            ),
            size,
            versions={"onnxruntime": version("onnxruntime")},
        )


def diffusers(size: Size, compiled: bool = False) -> dict[str, Any]:
    import diffusers
    import torch

    torch.set_num_threads(threads())
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(CHECKPOINT, local_files_only=True)
    if compiled:
        pipeline.unet.compile()
        pipeline.vae.decoder.compile()
        pipeline.vae.encoder.compile()
    return timed(
        pipeline_paint(pipeline), size, versions={"diffusers": diffusers.__version__, "torch": torch.__version__}
    )


def optimum(size: Size) -> dict[str, Any]:
    from importlib.metadata import version

    import onnxruntime
    from optimum.onnxruntime import ORTStableDiffusionInpaintPipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    pipeline = ORTStableDiffusionInpaintPipeline.from_pretrained(EXPORTS / "optimum", session_options=options)
    packages = ("optimum-onnx", "onnxruntime", "diffusers")
    return timed(pipeline_paint(pipeline), size, versions={name: version(name) for name in packages})


def pipeline_paint(pipeline: Any) -> Paint:
    """A pipeline of diffusers' kind as all sides are called."""
    import torch
    from diffusers import DDIMScheduler
    from PIL import Image

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return lambda picture, mask, steps, seed: pipeline(
        PROMPT,
        image=Image.fromarray(picture),
        mask_image=Image.fromarray(mask),
        height=picture.shape[0],
        width=picture.shape[1],
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
    )


def openvino(size: Size) -> dict[str, Any]:
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
            PROMPT,
            openvino.Tensor(picture[None]),
            openvino.Tensor(np.repeat(mask[None, :, :, None], 3, axis=3)),
            strength=1.0,
            width=size.side,
            height=size.side,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            rng_seed=seed,
        )

    return timed(paint, size, versions={"openvino-genai": version("openvino-genai"), "openvino": version("openvino")})


WORKERS: dict[str, Callable[[Size], dict[str, Any]]] = {
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
    columns = [f"{size.side} px, {size.steps} steps | gesso is faster by" for size in SIZES]
    lines = ["| guidance 7.5 | " + " | ".join(columns) + " |", "|---" * (2 * len(SIZES) + 1) + "|"]
    medians = {(peer.name, size.side): median(results["runs"], peer, size) for peer in PEERS for size in SIZES}
    for peer in PEERS:
        cells = []
        for size in SIZES:
            own, ours = medians[peer.name, size.side], medians["gesso", size.side]
            cells.append(own if isinstance(own, str) else f"{own:.2f} s")
            both = isinstance(own, float) and isinstance(ours, float) and peer.name != "gesso"
            cells.append(f"{own / ours:.2f}x" if both else "")
        lines.append(f"| {peer.title} | " + " | ".join(cells) + " |")
    ran = [run for run in results["runs"] if "versions" in run]
    used = {run["side"]: ", ".join(f"{name} {number}" for name, number in run["versions"].items()) for run in ran}
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    about += "; " + "; ".join(f"{peer.title}: {used[peer.name]}" for peer in PEERS if peer.name in used)
    put(PAGE, MARK, "\n".join([*lines, "", f"Machine and versions: {about}."]))


def median(runs: list[dict[str, Any]], peer: Peer, size: Size) -> float | str:
    """Seconds, or why there are none."""
    own = [run for run in runs if (run["side"], run["pixels"]) == (peer.name, size.side)]
    times = [second for run in own for second in run.get("seconds", ())]
    if times:
        return statistics.median(times)
    return str(own[-1]["failed"]) if own else "not measured"


def threads() -> int:
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    return {"cpu": model, "threads": threads()}


if __name__ == "__main__":
    sys.exit(main())
