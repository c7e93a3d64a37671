"""The command line. Pictures and their seeds are printed on stdout, everything else on stderr, errors on one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from gesso_client.arguments import PREVIEW_EVERY, parser
from gesso_client.bar import ProgressBar
from gesso_client.client import Client
from gesso_client.errors import GessoError, InvalidRequest, NotFound
from gesso_client.events import Image, Preview, Progress
from gesso_client.exit_codes import DONE, INTERRUPTED, SERVER_FAILED, SOME_FAILED, WRONG_INPUT
from gesso_client.folder import inpaint_folder
from gesso_client.models import ModelInfo
from gesso_client.parameter import Parameter
from gesso_client.request import Options
from gesso_client.save import check_output, numbered, write_picture


def main(argv: Sequence[str] | None = None, connect: Callable[[str], Client] = Client) -> int:
    """Run one command; the exit code."""
    args = parser().parse_args(argv)
    try:
        with connect(args.url) as client:
            return COMMANDS[args.command](client, args)
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


COMMANDS = {"inpaint": inpaint, "transform": transform, "generate": generate, "models": models}


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
                path = numbered(args.output, event.index, options.get("num_images_per_prompt") or 1)
                write_picture(event.image, path)
                _print(event, path)
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
            _print(picture, path)
        if done.error is not None:
            failed += 1
            _complain(f"{done.photo}: {done.error}")
    return SOME_FAILED if failed else DONE


def _print(picture: Image, path: Path) -> None:
    print(f"{path}  seed {picture.seed}", flush=True)


def _options(args: argparse.Namespace) -> Options:
    """The arguments of the SDK's call; each option's `dest` is its name there."""
    given = {name: getattr(args, name, None) for name in Options.__annotations__}
    return cast(Options, {name: value for name, value in given.items() if value is not None})


def _complain(what: object) -> None:
    print(f"gesso: {' '.join(str(what).split())}", file=sys.stderr, flush=True)


def _describe(info: ModelInfo) -> str:
    size = f"{info.native_size} px, a multiple of {info.size_multiple}, at most {info.max_pixels} pixels at once"
    lines = [f"{info.name}  ({info.bundle}, {info.family or info.kind})", f"  {', '.join(info.tasks)}", f"  {size}"]
    return "\n".join(lines + [f"  {_bounds(parameter)}" for parameter in info.parameters.values()])


def _bounds(parameter: Parameter) -> str:
    default = "" if parameter.default is None else f"default {parameter.default!r}"
    limits = ", ".join(parameter.choices or ())
    if parameter.minimum is not None:
        limits = f"{parameter.minimum} .. {parameter.maximum}"
    return f"{parameter.name:<22} {parameter.type:<7} {default:<18} {limits}".rstrip()
