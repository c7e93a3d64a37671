"""`gesso-export engines`: its words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gesso_export.bundle import manifest
from gesso_export.errors import EngineError
from gesso_export.progress import Progress
from gesso_export.tensorrt import gpu, optional, profiles, quantize
from gesso_export.tensorrt.build import BuildSettings, build_all, specs
from gesso_export.tensorrt.spec import Options


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="gesso-export engines",
        description="Build TensorRT engines for a bundle on this machine's GPU, check them against ONNX Runtime on it, "
        "and put them into the bundle.",
    )
    add = made.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="directory of the bundle")
    add("--gpu", metavar="NAME", default="auto", help="the GPU they are for; auto: the one that is here")
    add("--device", type=int, default=0, help="number of the GPU to build on (0)")
    add("--tensorrt-version", metavar="VERSION", help="for --print-key, where TensorRT is not installed")
    add(
        "--profile", metavar="NAME=MIN,OPT,MAX", action="append", default=[],
        help="sizes that an engine is for, each BATCHxHEIGHTxWIDTH in pixels; may be given several times",
    )  # fmt: skip
    add("--tokens", metavar="MIN,OPT,MAX", help="tokens of a prompt (the bundle's)")
    add("--vae-batch", type=int, default=1, metavar="ROWS", help="most rows of a VAE call (1)")
    add("--network", metavar="NAME", action="append", default=[], help="only this one; may be given several times")
    add("--precision", choices=("graph",), default="graph", help="that of the graph: TensorRT follows its types")
    add("--quantize", choices=quantize.MODES, help="quantise the denoiser, by nvidia-modelopt")
    add("--refittable", action="store_true", help="weights can be replaced later")
    add("--weight-streaming", action="store_true", help="weights need not all be on the GPU")
    add("--no-row-independence", action="store_true", help="let a row's last bits depend on its place in the batch")
    add("--optimization-level", type=int, choices=range(6), default=3, help="of TensorRT's builder (3)")
    add("--workspace-mib", type=int, default=0, help="GPU memory for the builder; 0: all there is")
    add("--print-key", action="store_true", help="only print each engine's key; needs neither GPU nor TensorRT")
    add("--force", action="store_true", help="build again what is there")
    return made


def main(arguments: Sequence[str], progress: Progress | None = None) -> None:
    """Run the command. Raises ExportError."""
    args = parser().parse_args(arguments)
    for flag, value in (("--vae-batch", args.vae_batch), ("--device", args.device + 1)):
        if value < 1:
            raise EngineError(f"{flag}: {value if flag == '--vae-batch' else args.device} is too small")
    settings = BuildSettings(
        sizes=tuple(profiles.parse(text) for text in args.profile),
        tokens=profiles.parse_tokens(args.tokens) if args.tokens else None,
        vae_batch=args.vae_batch,
        networks=tuple(args.network),
        quantize=args.quantize,
        options=Options(
            refittable=args.refittable,
            weight_streaming=args.weight_streaming,
            row_independence=not args.no_row_independence,
            optimization_level=args.optimization_level,
            workspace_mib=args.workspace_mib,
        ),
    )
    bundle = manifest.read(args.bundle)
    name = gpu.look(args.device).name if args.gpu == "auto" else args.gpu
    version = args.tensorrt_version or optional("tensorrt").__version__
    wanted = specs(bundle, settings, name, version)
    if args.print_key:
        for spec in wanted:
            print(spec.key, spec.network)
        return
    _check_here(args.device, name, version)
    build_all(args.bundle.resolve(), wanted, args.device, progress or Progress(sys.stderr), force=args.force)
    print(f"{args.bundle}: {len(wanted)} engines for {name}, TensorRT {version}")


def _check_here(device: int, name: str, version: str) -> None:
    """An engine is built by measuring kernels, so only where it is to run."""
    here = gpu.look(device).name
    if here != name:
        raise EngineError(f"--gpu: this is {here}, and an engine for {name} can only be built on one")
    installed = optional("tensorrt").__version__
    if installed != version:
        raise EngineError(f"--tensorrt-version: TensorRT {installed} is installed, and builds for no other")
