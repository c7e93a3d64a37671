"""Optimisation profiles: from rows and pixels, as people think of them, to the shapes of every network's inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gesso_export.bundle.manifest import Bundle
from gesso_export.bundle.tensor import BATCH, HEIGHT, LATENT_HEIGHT, LATENT_WIDTH, TOKENS, WIDTH, free_axes
from gesso_export.errors import EngineError
from gesso_export.tensorrt.spec import Profile, ShapeRange

CAP = 8  # rows: what the backend pads batches to
SMALLEST_SIDE = 64  # pixels
LONG_PROMPT_CHUNKS = 8  # of CLIP's tokens: as many as the backend takes of one prompt
_SIZE = re.compile(r"(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True)
class Size:
    """A call of the denoiser: so many rows of so many pixels."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


@dataclass(frozen=True)
class NamedSizes:
    """A profile as it is asked for: `NAME=MIN,OPT,MAX`."""

    name: str
    min: Size
    opt: Size
    max: Size


def parse(text: str) -> NamedSizes:
    """`portrait=1x768x512,8x768x512,8x1024x768`, each BATCHxHEIGHTxWIDTH in pixels. Raises EngineError."""
    name, equals, sizes = text.partition("=")
    found = [_SIZE.fullmatch(part.strip()) for part in sizes.split(",")]
    if not equals or not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or len(found) != 3 or None in found:
        raise EngineError(f"--profile: {text!r} is not NAME=MIN,OPT,MAX, each BATCHxHEIGHTxWIDTH in pixels")
    low, best, high = (Size(*map(int, match.groups())) for match in found if match)
    return NamedSizes(name, low, best, high)


def parse_tokens(text: str) -> tuple[int, int, int]:
    """`77,77,616`. Raises EngineError."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise EngineError(f"--tokens: {text!r} is not MIN,OPT,MAX")
    low, best, high = map(int, parts)
    if not 1 <= low <= best <= high:
        raise EngineError(f"--tokens: {text!r} does not rise from at least 1")
    return low, best, high


def defaults(bundle: Bundle, cap: int = CAP) -> tuple[NamedSizes, ...]:
    """The native size, and any size up to the largest the bundle allows (as a square)."""
    native, step = bundle.size.native, bundle.size.multiple
    largest = math.isqrt(bundle.size.max_pixels) // step * step
    smallest = -(-min(SMALLEST_SIDE, native) // step) * step
    named = [NamedSizes("native", Size(1, native, native), Size(cap, native, native), Size(cap, native, native))]
    if largest > native:
        sides = Size(1, smallest, smallest), Size(cap, native, native), Size(cap, largest, largest)
        named.append(NamedSizes("any", *sides))
    return tuple(named)


def check(sizes: Sequence[NamedSizes], bundle: Bundle) -> None:
    """Raises EngineError naming the flag, the profile and what is wrong with it."""
    names = [profile.name for profile in sizes]
    for profile in sizes:
        where = f"--profile {profile.name}"
        if names.count(profile.name) > 1:
            raise EngineError(f"{where}: given twice")
        for axis in ("batch", "height", "width"):
            low, best, high = (getattr(size, axis) for size in (profile.min, profile.opt, profile.max))
            if not 1 <= low <= best <= high:
                raise EngineError(f"{where}: {axis} {low}, {best}, {high} does not rise from at least 1")
            if axis != "batch" and any(side % bundle.size.multiple for side in (low, best, high)):
                raise EngineError(f"{where}: {axis} {low}, {best}, {high}: not all multiples of {bundle.size.multiple}")
        if profile.min.batch != 1:
            raise EngineError(f"{where}: batch begins at {profile.min.batch}; a request may have one row")
        if profile.opt.height * profile.opt.width > bundle.size.max_pixels:
            raise EngineError(f"{where}: {profile.opt} is beyond the bundle's {bundle.size.max_pixels} pixels")


def default_tokens(bundle: Bundle) -> tuple[int, int, int]:
    """Tokens of a prompt: whole chunks of CLIP's, or as many as T5 is given."""
    length = max(tokenizer.max_length for tokenizer in bundle.tokenizers.values())
    free = any(TOKENS in free_axes(bundle.networks[encoder].inputs.values()) for encoder in bundle.tokenizers)
    return (1, length, length) if free else (length, length, LONG_PROMPT_CHUNKS * length)


def for_network(
    network: str, bundle: Bundle, sizes: Sequence[NamedSizes], tokens: tuple[int, int, int], vae_batch: int
) -> tuple[Profile, ...]:
    """The profiles of one network. Those that are the same for it are one, by the first one's name.

    vae_batch: most rows of a network that works on pictures.
    """
    spec = bundle.networks[network]
    cap = vae_batch if HEIGHT in spec.free_axes else None
    found: list[Profile] = []
    for named in sizes:
        axes = [
            _axes(size, length, bundle.vae.factor, cap)
            for size, length in zip((named.min, named.opt, named.max), tokens, strict=True)
        ]
        shapes = {name: ShapeRange(*(port.at(each) for each in axes)) for name, port in spec.inputs.items()}
        if all(shapes != other.shapes for other in found):
            found.append(Profile(named.name, shapes))
    return tuple(found)


def _axes(size: Size, tokens: int, factor: int, cap: int | None) -> dict[str, int]:
    """The free axes of a call of this size. factor: pixels per latent, on each side. cap: most rows."""
    return {
        BATCH: size.batch if cap is None else min(size.batch, cap),
        TOKENS: tokens,
        LATENT_HEIGHT: size.height // factor,
        LATENT_WIDTH: size.width // factor,
        HEIGHT: size.height,
        WIDTH: size.width,
    }
