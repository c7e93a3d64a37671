"""What the commands take. Each option's `dest` is its name in the SDK; defaults and bounds are the model's."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn, get_args

from gesso_client import exit_codes
from gesso_client.client import DEFAULT_MODEL
from gesso_client.pictures import AlphaMeans
from gesso_client.request import Priority
from gesso_client.transport import DEFAULT_URL

PREVIEW_EVERY = 5  # steps, when --preview-dir says nothing else


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage and error."""
        self.exit(exit_codes.WRONG_INPUT, f"gesso: {message}; see {self.prog} --help\n")


def parser() -> Parser:
    whole = Parser(
        prog="gesso",
        description="Inpaint pictures on a gesso server.",
        epilog=(exit_codes.__doc__ or "").split("\n\n")[1],
    )
    whole.add_argument("--version", action="version", version=f"gesso {_version()}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")

    server = Parser(add_help=False)
    server.add_argument(
        "--url",
        default=os.environ.get("GESSO_URL") or DEFAULT_URL,
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
    command.add_argument(
        "--invert-mask", action="store_true", default=None, dest="mask_invert", help="0 repaints, 255 keeps"
    )
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
    command.add_argument("--resume", action="store_true", help="with a folder: leave out what is finished in OUT")
    command.set_defaults(command="inpaint")

    command = commands.add_parser("transform", parents=[server, request], help="vary a whole picture")
    command.add_argument("image", type=Path, metavar="PHOTO")
    command.add_argument("--strength", type=float, help="how freely, 0 to 1")
    command.set_defaults(command="transform")

    command = commands.add_parser("generate", parents=[server, request], help="make a picture from text alone")
    command.add_argument("--height", type=int, metavar="PX")
    command.add_argument("--width", type=int, metavar="PX")
    command.set_defaults(command="generate")

    command = commands.add_parser(
        "models", parents=[server], help="list what the server serves, with defaults and bounds"
    )
    command.set_defaults(command="models")
    return whole


def _request_arguments() -> Parser:
    """What inpaint, transform and generate have in common. Defaults and bounds are the model's (`gesso models`)."""
    request = Parser(add_help=False)
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
    request.add_argument("--preview-size", type=int, metavar="PX", help="longest side of a preview")
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
