"""The command line. Pictures and their seeds are printed on stdout, everything else on stderr, errors on one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from gesso_client import single
from gesso_client.arguments import PREVIEW_EVERY, parser
from gesso_client.client import Client
from gesso_client.console import complain, say, tell
from gesso_client.decode import reason
from gesso_client.errors import GessoError, InvalidRequest, NotFound, shortened
from gesso_client.exit_codes import DONE, INTERRUPTED, SERVER_FAILED, SOME_FAILED, WRONG_INPUT
from gesso_client.folder import Folder
from gesso_client.models import ModelInfo
from gesso_client.output import format_of
from gesso_client.parameter import Parameter
from gesso_client.plan import Plan
from gesso_client.request import Options, Task
from gesso_client.single import Previews


def main(argv: Sequence[str] | None = None, connect: Callable[[str], Client] = Client) -> int:
    """Run one command; the exit code."""
    args = parser().parse_args(argv)
    try:
        with connect(args.url) as client:
            return COMMANDS[args.command](client, args)
    except GessoError as error:
        complain(error)
        return WRONG_INPUT if isinstance(error, InvalidRequest | NotFound) else SERVER_FAILED
    except OSError as error:
        complain(error if error.filename is None else f"{shortened(str(error.filename))}: {reason(error)}")
        return WRONG_INPUT
    except KeyboardInterrupt:
        complain("cancelled")
        return INTERRUPTED


def inpaint(client: Client, args: argparse.Namespace) -> int:
    if args.image.is_dir():
        return _folder(client, args)
    if args.masks is not None:
        raise InvalidRequest("--masks is for a folder of photographs; give --mask", "mask_image")
    if args.mask is None and args.alpha_means is None:
        raise InvalidRequest("missing; give --mask, or --alpha-means to read it from the alpha", "mask_image")
    return _one(client, args, "inpaint", args.image, args.mask)


def transform(client: Client, args: argparse.Namespace) -> int:
    return _one(client, args, "image_to_image", args.image, None)


def generate(client: Client, args: argparse.Namespace) -> int:
    return _one(client, args, "text_to_image", None, None)


def models(client: Client, args: argparse.Namespace) -> int:
    found = client.models()
    text = "\n\n".join(_describe(info) for info in found) if found else "no gesso model is ready"
    return DONE if say(text) else WRONG_INPUT


COMMANDS = {"inpaint": inpaint, "transform": transform, "generate": generate, "models": models}


def _one(client: Client, args: argparse.Namespace, task: Task, image: Path | None, mask: Path | None) -> int:
    format_of(args.output)
    options = _options(args)
    if args.preview_dir is not None:
        options.setdefault("preview_every", PREVIEW_EVERY)
    elif options.get("preview_every"):
        raise InvalidRequest("needs --preview-dir", "preview_every")
    plan = Plan.of(client.info(args.model), task, args.output, options, image, mask)
    inputs = [path for path in (image, mask) if path is not None]
    previews = Previews(args.preview_dir, args.output.stem, inputs)
    return DONE if single.run(client, plan, args.prompt, options, previews) else WRONG_INPUT


def _folder(client: Client, args: argparse.Namespace) -> int:
    options = _options(args)
    if args.mask is not None:
        raise InvalidRequest("--mask is for one photograph; give --masks and a folder", "mask_image")
    if (args.masks is None) == (args.alpha_means is None):
        raise InvalidRequest("a folder takes either --masks or --alpha-means", "mask_image")
    if args.preview_dir is not None or options.get("preview_every"):
        raise InvalidRequest("is for one photograph, not for a folder", "preview_every")
    folder = Folder.of(client.info(args.model), args.image, args.masks, args.output, options, resume=args.resume)
    for finished in folder.finished:
        complain(f"{finished.photo}: skipped, {', '.join(map(str, finished.outputs))} is there")
    failed = 0
    for done in folder.inpaint(client, args.prompt, options, args.in_flight):
        told = set[str]()
        placed = [tell(saved, told, f"{done.photo}: ") for saved in done.saved]
        if done.error is not None:
            complain(f"{done.photo}: {done.error}")
        failed += done.error is not None or not all(placed)
    return SOME_FAILED if failed else DONE


def _options(args: argparse.Namespace) -> Options:
    """The arguments of the SDK's call; each option's `dest` is its name there."""
    given = {name: getattr(args, name, None) for name in Options.__annotations__}
    return cast(Options, {name: value for name, value in given.items() if value is not None})


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
