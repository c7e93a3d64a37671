"""The command line: gesso-export CHECKPOINT --out DIR, and gesso-export inspect, verify, engines, check-architecture.

Exit codes: 0 done, 1 a verification or the build of an engine failed, 2 refused (or wrong usage), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gesso_export.bundle import manifest
from gesso_export.bundle.checked import checked, unverified
from gesso_export.errors import ExportError, OutputError, RefusedError, VerificationError, one_line
from gesso_export.precision import DEFAULT, PRECISIONS, tolerances
from gesso_export.progress import Progress

if TYPE_CHECKING:
    from gesso_export import source

INTERRUPTED = 130
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "inspect": _inspect,
        "verify": _verify,
        "engines": _engines,
        "check-architecture": _check_architecture,
    }
    command = commands.get(arguments[0] if arguments else "", _export)
    # A polite kill removes the unfinished bundle just as Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command(arguments if command is _export else arguments[1:])
    except (ExportError, OSError) as error:  # the system's: of a file that nothing of ours was reading or writing
        left = "; no bundle was written" if command is _export and isinstance(error, VerificationError) else ""
        print(f"gesso-export: error: {one_line(error)}{left}", file=sys.stderr)
        return error.exit_code if isinstance(error, ExportError) else RefusedError.exit_code
    except KeyboardInterrupt:
        left = "engines that were finished are in the bundle" if command is _engines else "nothing was written"
        print(f"gesso-export: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _export(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gesso-export",
        description="Compile a diffusers checkpoint into a verified gesso bundle.",
        epilog="Also: gesso-export inspect CHECKPOINT (what it is, and whether it would be refused), "
        "gesso-export inspect BUNDLE (what is in it), gesso-export verify BUNDLE (is it still whole), "
        "gesso-export engines BUNDLE (TensorRT engines for this GPU), "
        "gesso-export check-architecture (are our networks those of the published models).",
    )
    _add_source(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory of the bundle")
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default=DEFAULT,
        help="of the weights (fp32); int8: of the denoiser, for CPUs, if its pictures stay close enough to fp32's",
    )
    parser.add_argument("--name", help="name of the bundle (that of DIR)")
    parser.add_argument("--license", metavar="TEXT", default="unknown", help="licence of the weights, for the record")
    parser.add_argument(
        "--embedding",
        metavar="TOKEN=FILE",
        action="append",
        default=[],
        help="a textual inversion (.safetensors) that prompts may name; may be given several times",
    )
    parser.add_argument(
        "--independent-check",
        choices=("on", "off"),
        default="on",
        help="whether diffusers' own pipeline has to paint the same from the checkpoint (on)",
    )
    parser.add_argument("--force", action="store_true", help="replace DIR if it is a bundle")
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    name = args.name or out.name
    if not _NAME.fullmatch(name):
        raise OutputError(f"{name!r} is no name for a bundle: letters, digits and . _ - after the first; see --name")

    # These wait until the arguments are known to be good: torch takes seconds to import, a download takes minutes.
    from gesso_export.bundle import staging

    progress = Progress(sys.stderr)
    named = [args.checkpoint, args.base, args.vae, *(embedding.partition("=")[2] for embedding in args.embedding)]
    staging.check_output(out, args.force)
    staging.check_apart(out, [Path(name) for name in named if name])
    for left in staging.sweep(out):
        progress.note(f"{left}: removed, a killed export left it")
    from gesso_export import export, inspection, source
    from gesso_export.checkpoint import embeddings

    wanted = _wanted(args)
    inversions = [embeddings.read(argument) for argument in args.embedding]
    if wanted.is_file:  # all is known of it by its header, before gigabytes are unpacked
        needed = export.room(inspection.survey(wanted, inversions), args.precision)
        staging.check_space(out, needed + wanted.path.stat().st_size)
    with source.opened(wanted, out) as checkpoint:
        bundle = export.export(
            checkpoint,
            out,
            precision=args.precision,
            name=name,
            license_text=args.license,
            force=args.force,
            embeddings=inversions,
            independent_check=args.independent_check == "on",
            progress=progress,
        )
    if reason := unverified(bundle):
        print(f"gesso-export: warning: {reason}", file=sys.stderr)
        print(f"{args.out}: written; its networks compute what torch does, but it was not verified independently")
    else:
        print(f"{args.out}: written and verified")


def _add_source(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, and what a person may say of it."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a diffusers directory, a .safetensors file in the original layout, or a hub id (owner/name)",
    )
    parser.add_argument(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="what the UNet predicts, where no file says it or two disagree",
    )
    parser.add_argument(
        "--turbo",
        action="store_true",
        help="the .safetensors file is SDXL-Turbo, which nothing in it tells from SDXL",
    )
    parser.add_argument(
        "--base",
        metavar="DIR",
        type=Path,
        help="diffusers directory of any FLUX.1 model, for what a .safetensors file of FLUX.1 does not hold",
    )
    parser.add_argument(
        "--vae",
        metavar="FILE_OR_FOLDER",
        type=Path,
        help="take the VAE from here: a file in the original layout, or a folder in diffusers'",
    )
    parser.add_argument(
        "--scheduler",
        metavar="NAME|FILE",
        help="scheduler class to read the checkpoint's config by, or the file of another config",
    )
    parser.add_argument("--revision", metavar="SHA", help="commit of a hub id: 40 hex digits")


def _wanted(args: argparse.Namespace) -> source.Wanted:
    from gesso_export.source import Wanted

    names = ("revision", "prediction_type", "turbo", "base", "vae", "scheduler")
    return Wanted(args.checkpoint, **{name: getattr(args, name) for name in names})


def _inspect(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gesso-export inspect",
        description="Print what is in a bundle, or what a checkpoint is before anything is made of it. "
        "Exit code 2: an export would refuse it, for the reasons printed.",
    )
    _add_source(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(arguments)
    folder = Path(args.checkpoint)
    if (folder / manifest.FILE_NAME).is_file():
        from gesso_export.bundle.summary import summary

        bundle = manifest.read(folder)
        print(manifest.dumps(bundle) if args.json else summary(folder, bundle))
        return
    from gesso_export import inspection

    report = inspection.inspect(_wanted(args))
    print(json.dumps(report, indent=2) if args.json else inspection.table(report))
    if report["refused"]:
        raise RefusedError(f"{args.checkpoint} is not a bundle, and an export would refuse it for what is said above")


def _verify(arguments: Sequence[str]) -> None:
    folder = _bundle_argument("verify", "Check every file's hash and every network's values.", arguments)
    from gesso_export.proof.verify import verify

    bundle = verify(folder, tolerances(), Progress(sys.stderr))
    print(f"{folder}: whole; every file and every network is what it was when it was exported")
    print(f"when it was exported: {checked(bundle)}")


def _engines(arguments: Sequence[str]) -> None:
    from gesso_export.tensorrt import command

    command.main(arguments)


def _check_architecture(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="gesso-export check-architecture",
        description="Build the published models from their configs, without weights, and check what we make of them: "
        "how many parameters each network has, and the shape of every output.",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="a published model, such as sdxl (all of them)")
    names = parser.parse_args(arguments).names
    from gesso_export.published import architectures

    findings = architectures.check(names)
    print(architectures.HEADER)
    for finding in findings:
        print(finding, flush=True)


def _bundle_argument(command: str, description: str, arguments: Sequence[str]) -> Path:
    parser = argparse.ArgumentParser(prog=f"gesso-export {command}", description=description)
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="directory of the bundle")
    folder: Path = parser.parse_args(arguments).bundle
    return folder


if __name__ == "__main__":
    sys.exit(main())
