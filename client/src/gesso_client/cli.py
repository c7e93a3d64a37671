"""The command line. Pictures and their seeds are printed on stdout, everything else on stderr, errors on one line.

Exit codes: 0 done · 1 the server or the connection failed · 2 wrong usage or input · 3 some of a folder failed ·
130 interrupted, and the request cancelled.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn, cast, get_args

from gesso_client.bar import ProgressBar
from gesso_client.client import DEFAULT_MODEL, Client
from gesso_client.errors import GessoError, InvalidRequest, NotFound
from gesso_client.events import Image, Preview, Progress
from gesso_client.folder import inpaint_folder
from gesso_client.models import ModelInfo, Parameter
from gesso_client.pictures import AlphaMeans
from gesso_client.request import Options, Priority
from gesso_client.save import check_output, numbered, write_picture
from gesso_client.transport import DEFAULT_URL

DONE, SERVER_FAILED, WRONG_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
PREVIEW_EVERY = 5  # steps, when --preview-dir says nothing else


def main(argv: Sequence[str] | None = None, connect: Callable[[str], Client] = Client) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(argv)
    try:
        with connect(args.url) as client:
            return int(args.run(client, args))
    except GessoError as error:
        _complain(error)
        return WRONG_INPUT if isinstance(error, InvalidRequest | NotFound) else SERVER_FAILED
    except OSError as error:
        _complain(error)
        return WRONG_INPUT
    except KeyboardInterrupt:
        _complain("cancelled")
        return INTERRUPTED


def inpaint(client: Client, args: argparse.Namespace) -> int:
    if args.image.is_dir():
        return _folder(client, args)
    if args.masks is not None:
        raise InvalidRequest("--masks is for a folder of photographs; give --mask", "mask_image")
    if args.mask is None and args.alpha_means is None:
        raise InvalidRequest("missing; give --mask, or --alpha-means to read it from the alpha", "mask_image")
    return _one(client, args, args.image, args.mask)


def transform(client: Client, args: argparse.Namespace) -> int:
    return _one(client, args, args.image, None)


def generate(client: Client, args: argparse.Namespace) -> int:
    return _one(client, args, None, None)


def models(client: Client, args: argparse.Namespace) -> int:
    found = client.models()
    print("\n\n".join(_describe(info) for info in found) if found else "no gesso model is ready")
    return DONE


def _one(client: Client, args: argparse.Namespace, image: Path | None, mask: Path | None) -> int:
    check_output(args.output)
    options = _options(args)
    if args.preview_dir is not None:
        options.setdefault("preview_every", PREVIEW_EVERY)
        args.preview_dir.mkdir(parents=True, exist_ok=True)
    elif options.get("preview_every"):
        raise InvalidRequest("needs --preview-dir", "preview_every")
    bar = ProgressBar(sys.stderr)
    job = client.submit(image, mask, args.prompt, **options)
    try:
        for event in job.events():
            if isinstance(event, Progress):
                bar.show(event)
            elif isinstance(event, Preview):
                write_picture(event.image, args.preview_dir / f"{args.output.stem}-{event.index}-{event.step:04}.png")
            else:
                bar.close()
                _save(event, numbered(args.output, event.index, options.get("num_images_per_prompt") or 1))
    except BaseException:
        job.cancel()
        raise
    finally:
        bar.close()
    return DONE


def _folder(client: Client, args: argparse.Namespace) -> int:
    options = _options(args)
    if args.mask is not None:
        raise InvalidRequest("--mask is for one photograph; give --masks and a folder", "mask_image")
    if (args.masks is None) == (args.alpha_means is None):
        raise InvalidRequest("a folder takes either --masks or --alpha-means", "mask_image")
    if args.preview_dir is not None or options.get("preview_every"):
        raise InvalidRequest("is for one photograph, not for a folder", "preview_every")
    client.info(args.model)  # a server that is not there fails once, not once per photograph
    failed = 0
    for done in inpaint_folder(client, args.image, args.masks, args.output, args.prompt, options, args.in_flight):
        for path, picture in done.pictures:
            print(f"{path}  seed {picture.seed}", flush=True)
        if done.error is not None:
            failed += 1
            _complain(f"{done.photo}: {done.error}")
    return SOME_FAILED if failed else DONE


def _save(picture: Image, path: Path) -> None:
    write_picture(picture.image, path)
    print(f"{path}  seed {picture.seed}", flush=True)


def _options(args: argparse.Namespace) -> Options:
    """The arguments of the SDK's call; each option's `dest` is its name there."""
    given = {name: getattr(args, name, None) for name in Options.__annotations__}
    return cast(Options, {name: value for name, value in given.items() if value is not None})


def _complain(what: object) -> None:
    print(f"gesso: {' '.join(str(what).split())}", file=sys.stderr, flush=True)


def _describe(info: ModelInfo) -> str:
    size = f"{info.native_size} px, a multiple of {info.size_multiple}, at most {info.max_pixels} pixels at once"
    lines = [f"{info.name}  ({info.bundle}, {info.family})", f"  {', '.join(info.tasks)}", f"  {size}"]
    return "\n".join(lines + [f"  {_bounds(parameter)}" for parameter in info.parameters.values()])


def _bounds(parameter: Parameter) -> str:
    default = "" if parameter.default is None else f"default {parameter.default!r}"
    limits = ", ".join(parameter.choices or ())
    if parameter.minimum is not None:
        limits = f"{parameter.minimum} .. {parameter.maximum}"
    return f"{parameter.name:<22} {parameter.type:<7} {default:<18} {limits}".rstrip()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage and error."""
        self.exit(WRONG_INPUT, f"gesso: {message}; see {self.prog} --help\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="gesso", description="Inpaint pictures on a gesso server.", epilog=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--version", action="version", version=f"gesso {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    server = _Parser(add_help=False)
    server.add_argument(
        "--url",
        default=os.environ.get("GESSO_URL", DEFAULT_URL),
        help="HOST:PORT (gRPC) or http://... (default: %(default)s, or $GESSO_URL)",
    )
    request = _request_arguments()

    command = commands.add_parser(
        "inpaint", parents=[server, request], help="repaint a photograph where the mask is white"
    )
    command.add_argument("image", type=Path, metavar="PHOTO", help="a picture, or a folder of them")
    command.add_argument("--mask", type=Path, help="255 repaints, 0 keeps")
    command.add_argument("--masks", type=Path, metavar="DIR", help="with a folder: masks of the same stems")
    command.add_argument(
        "--alpha-means", choices=get_args(AlphaMeans), help="read the mask from the alpha channel; what opaque means"
    )
    command.add_argument("--fit-mask", action="store_true", default=None, help="resize a mask of another size")
    command.add_argument("--strength", type=float)
    command.add_argument("--feather", type=int, dest="mask_feather", metavar="PX", help="soft edge inside the mask")
    command.add_argument(
        "--crop", type=int, dest="padding_mask_crop", metavar="PX", help="context around the mask; -1: the whole image"
    )
    command.add_argument("--no-latent-blend", action="store_false", default=None, dest="latent_blend")
    command.add_argument(
        "--native", action="store_true", default=None, dest="require_native", help="refuse a model that only blends"
    )
    command.add_argument(
        "--in-flight", type=_count, default=4, metavar="N", help="with a folder: at once (default: %(default)s)"
    )
    command.set_defaults(run=inpaint)

    command = commands.add_parser("transform", parents=[server, request], help="vary a whole picture")
    command.add_argument("image", type=Path, metavar="PHOTO")
    command.add_argument("--strength", type=float, help="how freely, 0 to 1")
    command.set_defaults(run=transform)

    command = commands.add_parser("generate", parents=[server, request], help="make a picture from text alone")
    command.add_argument("--height", type=int, metavar="PX")
    command.add_argument("--width", type=int, metavar="PX")
    command.set_defaults(run=generate)

    command = commands.add_parser(
        "models", parents=[server], help="list what the server serves, with defaults and bounds"
    )
    command.set_defaults(run=models)
    return parser


def _request_arguments() -> _Parser:
    """What inpaint, transform and generate have in common. Defaults and bounds are the model's (`gesso models`)."""
    request = _Parser(add_help=False)
    request.add_argument("--prompt", required=True)
    request.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the format follows the extension"
    )
    request.add_argument("--negative", dest="negative_prompt", metavar="TEXT")
    request.add_argument("--prompt-2", metavar="TEXT", help="SDXL, FLUX: for the second text encoder")
    request.add_argument("--negative-2", dest="negative_prompt_2", metavar="TEXT")
    request.add_argument("--true-cfg", type=float, dest="true_cfg_scale", metavar="SCALE", help="FLUX: guided for real")
    request.add_argument("--negative-strength", type=float, dest="negative_prompt_strength", metavar="SHARE")
    request.add_argument(
        "--weighting", action="store_true", default=None, dest="prompt_weighting", help="read (word:1.3) and [word]"
    )
    request.add_argument(
        "--cut-long", action="store_false", default=None, dest="long_prompt", help="cut prompts of over 75 tokens"
    )
    request.add_argument("--clip-skip", type=int, metavar="LAYERS")
    request.add_argument("--steps", type=int, dest="num_inference_steps", metavar="N")
    request.add_argument("--guidance", type=float, dest="guidance_scale", metavar="SCALE")
    request.add_argument("--seed", type=int)
    request.add_argument("--guidance-rescale", type=float, metavar="SHARE", help="0 to 1; against washed-out guidance")
    request.add_argument("--scheduler")
    request.add_argument("--spacing", dest="timestep_spacing", help="of the timesteps: leading, linspace or trailing")
    request.add_argument(
        "--timesteps", type=_numbers(int), metavar="T,T,...", help="your own, falling; no --steps then"
    )
    request.add_argument("--sigmas", type=_numbers(float), metavar="S,S,...", help="your own, falling; no --steps then")
    request.add_argument("--eta", type=float, help="noise of ddim, gamma of tcd: 0 to 1")
    request.add_argument(
        "--count", type=int, dest="num_images_per_prompt", metavar="N", help="pictures, written to OUT-0, OUT-1, ..."
    )
    request.add_argument("--preview-dir", type=Path, metavar="DIR", help="write previews there")
    request.add_argument(
        "--preview-every", type=int, metavar="STEPS", help=f"default with --preview-dir: {PREVIEW_EVERY}"
    )
    request.add_argument("--model", help=f"default: {DEFAULT_MODEL}")
    request.add_argument("--deadline", type=float, metavar="SECONDS")
    request.add_argument("--priority", choices=get_args(Priority), help="on a busy server (default: normal)")
    return request


def _numbers(kind: type[int] | type[float]) -> Callable[[str], list[int] | list[float]]:
    def numbers(text: str) -> list[int] | list[float]:
        return [kind(item) for item in text.split(",")]

    return numbers


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _version() -> str:
    try:
        return version("gesso-client")
    except PackageNotFoundError:  # run from the source tree
        return "(not installed)"
