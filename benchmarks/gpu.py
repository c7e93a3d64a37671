"""All of a GPU's numbers, in one report: build, verify, serve, compare, benchmark. `make bench-gpu` runs it.

    python benchmarks/gpu.py                              SD 1.5 and SDXL inpainting, random weights, fp16
    python benchmarks/gpu.py --models sd15 --engines onnxruntime
    python benchmarks/gpu.py --dry-run --out /tmp/report  the same on a CPU, with a tiny model: that it all runs

Where TensorRT is installed its engines are built and published first (`gesso-export engines`, which verifies each
against ONNX Runtime on the same GPU); without it ONNX Runtime's CUDA provider is measured alone. Where Triton is at
hand the model is served and asked once more. The report says what ran, what did not and why; the bars are judged on an
H100 only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

BIN = Path(sys.executable).parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "cuda-python", "polygraphy", "numpy")
REPEATS = 5
TOGETHER = 8  # requests at once, for step batching
PROMPT = "a hot air balloon over the sea"
BARS = {  # on an H100
    ("sd15", "lone_seconds"): ("at most", 0.50),
    ("sd15", "batching_gain"): ("at least", 2.0),
    ("sdxl", "lone_seconds"): ("at most", 1.6),
    ("*", "overhead"): ("at most", 0.05),
    ("*", "idle_between_steps"): ("at most", 0.03),
}


@dataclass(frozen=True)
class Model:
    name: str
    preset: str  # of examples/random_checkpoint.py
    precision: str
    side: int  # pixels
    steps: int
    rows: tuple[int, ...]  # batch sizes, tried and allowed
    half: bool = True


MODELS = {
    "sd15": Model("sd15", "sd15", "fp16", 512, 50, (1, 2, 4, 8, 16)),
    "sdxl": Model("sdxl", "sdxl", "fp16", 1024, 30, (1, 2, 4, 8)),
    "tiny": Model("tiny", "tiny", "fp32", 64, 4, (1, 2, 4), half=False),
}


@dataclass
class Findings:
    """Of one model on one engine; what is None did not run, and `notes` says why."""

    model: str
    engine: str
    kinds: dict[str, str] = field(default_factory=dict)  # what runs each network
    build_seconds: float | None = None  # of the TensorRT engines; 0 when they were there
    batch_sizes: list[int] = field(default_factory=list)  # those whose bytes agree, which are used
    step_ms: dict[int, float] = field(default_factory=dict)  # rows -> a denoiser call
    rows_equal: bool | None = None  # a row alone and the row in every batch, byte for byte
    lone_seconds: float | None = None  # a request alone
    overhead: float | None = None  # of its time, outside the engines, per time in them
    idle_between_steps: float | None = None  # of the time from first to last step, outside the denoiser's calls
    serial_per_second: float | None = None  # pictures, one request after another
    together_per_second: float | None = None  # pictures, TOGETHER requests at once
    batching_gain: float | None = None
    picture_equal_alone: bool | None = None  # a request alone and among the others, byte for byte
    difference: dict[str, float] = field(default_factory=dict)  # to the first engine's picture, of 255 levels
    served: bool | None = None  # the picture through Triton is that of the service in this process
    notes: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl"], choices=sorted(MODELS))
    parser.add_argument("--engines", nargs="+", choices=("onnxruntime", "tensorrt"), help="(all that can run here)")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--scratch", type=Path, default=ROOT, help="where checkpoints/ and bundles/ are kept")
    parser.add_argument("--no-serve", action="store_true", help="without Triton")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with a tiny model")
    options = parser.parse_args()
    names = ["tiny"] if options.dry_run else options.models
    device = "CPU (dry run)" if options.dry_run else gpu_name(options.device)
    engines = options.engines or (["onnxruntime"] if options.dry_run else available())
    findings, pictures = [], dict[str, Any]()
    for name in names:
        model = MODELS[name]
        bundle = artefact(model, options.scratch)
        for engine in engines:
            found = Findings(name, engine)
            try:
                picture = measure(found, model, bundle, engine, options)
            except Exception as error:  # one engine's failure is a finding; the others are still measured
                found.notes.append(f"failed: {type(error).__name__}: {error}")
            else:
                reference = pictures.setdefault(name, picture).astype(int)
                off = np.abs(picture.astype(int) - reference)
                found.difference = {"largest": float(off.max()), "mean": round(float(off.mean()), 4)}
            findings.append(found)
            write(options.out, device, findings, options.dry_run)
    print(write(options.out, device, findings, options.dry_run))
    failed = [bar for bar in judged(findings, device) if bar[-1] is False]
    return 1 if failed or any(note.startswith("failed") for found in findings for note in found.notes) else 0


def measure(found: Findings, model: Model, bundle: Path, engine: str, options: argparse.Namespace) -> Any:
    """Fill in `found`; returns the picture of a request alone."""
    from gesso_backend.service import Service
    from gesso_backend.settings import Settings

    settings = Settings(
        bundle=str(bundle),
        engine=engine,
        providers="cpu" if options.dry_run else "cuda",
        device=options.device,
        max_rows=model.rows[-1],
        max_vae_rows=1,
        batch_sizes=",".join(map(str, model.rows)),
        profile_seconds=0,
        stall_seconds=3600,
    )
    if engine == "tensorrt":
        found.build_seconds = build(model, bundle, options.device)
    service = Service.load(settings)
    try:
        found.kinds = dict(getattr(service.engines, "kinds", {}))
        batching(found, model, service)
        picture = requests(found, model, service)
    finally:
        service.drain()
    if options.no_serve:
        found.notes.append("not served: --no-serve")
    else:
        serve(found, model, bundle, settings, picture)
    return picture


def batching(found: Findings, model: Model, service: Any) -> None:
    """The denoiser's calls by rows, and whether a row knows its batch."""
    bundle = service.bundle
    spec, engine = bundle.denoiser, service.engines[bundle.kind.denoiser]
    cells = model.side // bundle.vae.factor
    tokens = max(tokenizer.max_length for tokenizer in bundle.tokenizers.values())
    axes = {"batch": model.rows[-1], "height": cells, "width": cells, "tokens": tokens}
    rng = np.random.default_rng(0)
    shapes = {name: [axes[a] if isinstance(a, str) else a for a in port.shape] for name, port in spec.inputs.items()}
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["timestep"] = rng.uniform(1, 999, shapes["timestep"]).astype(np.float32)
    (output,) = spec.outputs

    def call(rows: int, first: int = 0) -> Any:
        return engine(**{name: array[first : first + rows] for name, array in inputs.items()})[output]

    alone = [call(1, row)[0] for row in range(model.rows[-1])]
    found.rows_equal = all(
        np.array_equal(call(rows)[row], alone[row]) for rows in range(2, model.rows[-1] + 1) for row in range(rows)
    )
    ways = getattr(engine, "_ways", None) or getattr(getattr(engine, "_first", None), "_ways", {})
    found.batch_sizes = sorted({size for way in ways.values() for size in way.sizes})
    for rows in model.rows:
        found.step_ms[rows] = round(1000 * statistics.median(timed(lambda r=rows: call(r)) for _ in range(REPEATS)), 3)


def requests(found: Findings, model: Model, service: Any) -> Any:
    """A request alone, one after another, and together; in this process, through the service as Triton runs it."""
    ask(model, service, 0)  # warm
    lone = [ask(model, service, 1) for _ in range(REPEATS)]
    found.lone_seconds = statistics.median(answer.seconds for answer in lone)
    in_engines = statistics.median(answer.engine_seconds for answer in lone)
    found.overhead = round(statistics.median((a.seconds - a.engine_seconds) / a.engine_seconds for a in lone), 4)
    found.idle_between_steps = round(statistics.median(answer.idle for answer in lone), 4)
    found.notes.append(f"a request alone: {in_engines:.3f} s of it in the engines")
    seeds = range(2, 2 + TOGETHER)
    serial = timed(lambda: [ask(model, service, seed) for seed in seeds])
    together_from = time.perf_counter()
    waiting = [submit(model, service, seed) for seed in (1, *seeds[1:])]
    answers = [wait() for wait in waiting]
    together = time.perf_counter() - together_from
    found.serial_per_second = round(TOGETHER / serial, 4)
    found.together_per_second = round(TOGETHER / together, 4)
    found.batching_gain = round(serial / together, 3)
    found.picture_equal_alone = bool(np.array_equal(answers[0].picture, lone[0].picture))
    return lone[0].picture


@dataclass(frozen=True)
class Answer:
    picture: Any
    seconds: float
    engine_seconds: float
    idle: float


def ask(model: Model, service: Any, seed: int) -> Answer:
    return submit(model, service, seed)()


def submit(model: Model, service: Any, seed: int) -> Callable[[], Answer]:
    """Send a request; the function returned waits for its answer."""
    done, events, errors = threading.Event(), list[tuple[float, Any]](), list[Any]()

    class Channel:
        def send(self, event: Any) -> None:
            events.append((time.perf_counter(), event))

        def close(self, error: Any) -> None:
            errors.append(error)
            done.set()

        def cancelled(self) -> bool:
            return False

    started = time.perf_counter()
    service.submit(job(model, seed), Channel())

    def wait() -> Answer:
        done.wait()
        if errors[0] is not None:
            raise errors[0]
        seconds = events[-1][0] - started
        timings = json.loads(events[-1][1].report)["timings_ms"]
        networks = {name: ms / 1000 for name, ms in timings.items() if name in service.bundle.networks}
        steps = [at for at, event in events if event.event == "progress"]
        denoiser = networks[service.bundle.kind.denoiser] * (len(steps) - 1) / len(steps)
        return Answer(events[-1][1].image, seconds, sum(networks.values()), 1 - denoiser / (steps[-1] - steps[0]))

    return wait


def job(model: Model, seed: int) -> dict[str, Any]:
    def text(value: str) -> Any:
        return np.array([value.encode()], object)

    image, mask = picture_and_mask(model)
    return {
        "prompt": text(PROMPT),
        "image": image,
        "mask_image": mask,
        "scheduler": text("ddim"),
        "num_inference_steps": np.array([model.steps], np.int32),
        "padding_mask_crop": np.array([-1], np.int32),
        "seed": np.array([seed], np.int64),
    }


def picture_and_mask(model: Model) -> tuple[Any, Any]:
    image = np.random.default_rng(0).integers(0, 255, (model.side, model.side, 3), np.uint8)
    mask = np.zeros((model.side, model.side), np.uint8)
    mask[model.side // 4 : -model.side // 4, model.side // 4 : -model.side // 4] = 255
    return image, mask


def serve(found: Findings, model: Model, bundle: Path, settings: Any, expected: Any) -> None:
    """The same request through gesso-serve and the SDK."""
    from demo import serve as running
    from gesso_client import Client

    names = ("engine", "providers", "device", "max_rows", "max_vae_rows", "batch_sizes", "profile_seconds")
    flags = [word for name in names for word in ("--" + name.replace("_", "-"), str(getattr(settings, name)))]
    image, mask = picture_and_mask(model)
    try:
        with running(bundle, *flags) as url, Client(url) as client:
            options: dict[str, Any] = {"num_inference_steps": model.steps, "scheduler": "ddim", "padding_mask_crop": -1}
            result = client.inpaint(image, mask, PROMPT, seed=1, **options)
            client_seconds = timed(lambda: client.inpaint(image, mask, PROMPT, seed=1, **options))
    except Exception as error:
        found.notes.append(f"not served: {type(error).__name__}: {error}")
        return
    found.served = bool(np.array_equal(np.asarray(result.image), expected))
    found.notes.append(f"a request alone through Triton and the SDK: {client_seconds:.3f} s")


def artefact(model: Model, scratch: Path) -> Path:
    """The bundle of random weights, made when it is not there."""
    checkpoint, bundle = scratch / "checkpoints" / f"gpu-{model.name}", scratch / "bundles" / f"gpu-{model.name}"
    if not bundle.exists():
        maker = [str(ROOT / "examples" / "random_checkpoint.py"), str(checkpoint), "--preset", model.preset]
        subprocess.run([sys.executable, *maker, *(["--half"] if model.half else [])], check=True)
        export = [str(BIN / "gesso-export"), str(checkpoint), "--out", str(bundle), "--precision", model.precision]
        subprocess.run(export, check=True)
    return bundle


def build(model: Model, bundle: Path, device: int) -> float:
    """TensorRT engines for the one size that is measured, verified and published; what is there is skipped."""
    side, most = model.side, model.rows[-1]
    profile = f"bench=1x{side}x{side},{most}x{side}x{side},{most}x{side}x{side}"
    command = [str(BIN / "gesso-export"), "engines", str(bundle), "--gpu", "auto", "--device", str(device)]
    return timed(lambda: subprocess.run([*command, "--profile", profile], check=True))


def available() -> list[str]:
    """Engines that can run here: ONNX Runtime first, with which the other is compared."""
    import onnxruntime

    found = ["onnxruntime"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else []
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        pass
    else:
        found.append("tensorrt")
    if not found:
        raise SystemExit("gpu.py: neither onnxruntime-gpu nor TensorRT is installed; --dry-run runs on a CPU")
    return found


def gpu_name(ordinal: int) -> str:
    from gesso_backend.engines.device import Device, cuda_runtime

    return Device(ordinal, cuda_runtime()).name


def judged(findings: Sequence[Findings], device: str) -> list[tuple[str, str, str, float, float | None, bool | None]]:
    """(model, engine, what, bar, value, whether it is met): None where it was not measured, or this is no H100."""
    rows: list[tuple[str, str, str, float, float | None, bool | None]] = []
    for found in findings:
        for (model, name), (sense, bar) in BARS.items():
            if model in (found.model, "*"):
                value = getattr(found, name)
                met = None
                if value is not None and "H100" in device:
                    met = value <= bar if sense == "at most" else value >= bar
                rows.append((found.model, found.engine, f"{name} {sense}", bar, value, met))
    return rows


def write(out: Path, device: str, findings: Sequence[Findings], dry_run: bool) -> str:
    """The report as JSON and as a page; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    name = "gpu-" + ("dry-run" if dry_run else re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower())
    about = {"device": device, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions()}
    record = {"about": about, "findings": [asdict(found) for found in findings]}
    (out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    page = markdown(about, findings, judged(findings, device))
    (out / f"{name}.md").write_text(page)
    return page


def versions() -> dict[str, str]:
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


def markdown(about: dict[str, Any], findings: Sequence[Findings], bars: Sequence[Any]) -> str:
    lines = [f"# {about['device']}", "", ", ".join(f"{k} {v}" for k, v in about.items() if k != "device") + ".", ""]
    names = [name for name in Findings.__dataclass_fields__ if name not in ("model", "engine", "notes")]
    lines += ["| | " + " | ".join(f"{found.model}, {found.engine}" for found in findings) + " |"]
    lines += ["|---" * (len(findings) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(shown(getattr(found, name)) for found in findings) + " |")
    lines += ["", "| model | engine | bar | | found | met |", "|---|---|---|---|---|---|"]
    for model, engine, what, bar, value, met in bars:
        verdict = "not judged" if met is None else "yes" if met else "**no**"
        lines.append(f"| {model} | {engine} | {what} | {bar} | {shown(value)} | {verdict} |")
    lines += ["", *(f"- {found.model}, {found.engine}: {note}" for found in findings for note in found.notes)]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    if value is None:
        return "not run"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
