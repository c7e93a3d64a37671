"""What a request is warned of: what in it means something else than it seems to, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from gesso_backend.arrays import REPAINT, Pixels
from gesso_backend.errors import InvalidRequest
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.model.bundle import SizeSpec
from gesso_backend.pixels import canvas as canvases
from gesso_backend.pixels import mask as masks

PROMPTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")
QUOTED, QUOTED_LENGTH = 5, 40  # words of a prompt that one warning quotes, and characters of each

# What other tools read as more than words.
_SYNTAX = re.compile(
    r"\bBREAK\b|\bAND\b"
    r"|<(?:lora|lyco|hypernet|hypernetwork|embedding):[^<>]*>|\bembedding:[^\s,()]+"
    r"|\{[^{}|]*\|[^{}]*\}|\[[^\[\]|]*\|[^\[\]]*\]|\[[^\[\]:]*:[^\[\]]*\]|__[\w/-]+__"
)
_EMPHASIS = re.compile(r"\([^()]*:\s*[+-]?[\d.]+\s*\)")
_LETTERS = re.compile(r"[a-z]")

# Of the negative row alone, and what each is when it says nothing.
_NEGATIVE = {
    "negative_prompt": "",
    "negative_prompt_2": "",
    "negative_prompt_strength": 1.0,
    "guidance_rescale": 0.0,
    "negative_original_size": None,
    "negative_crops_coords_top_left": None,
    "negative_target_size": None,
}


def of_prompts(request: Request) -> Iterator[str]:
    """Of syntax that is read as words, and of a prompt without any."""
    if not (request.prompt.strip() or request.prompt_2.strip()):
        yield "prompt is empty: nothing says what is to be painted"
    for name in PROMPTS:
        text = getattr(request, name)
        found = [match.group() for match in _SYNTAX.finditer(text)]
        if not _LETTERS.search(text):  # capitals throughout: AND is a word there
            found = [word for word in found if word != "AND"]
        if found:
            yield f"{name}: read as words, not as commands of other tools: {_quoted(found)}"
        if not request.prompt_weighting and (emphasis := _EMPHASIS.findall(text)):
            yield f"{name}: prompt_weighting is off, so brackets and weights are read as words: {_quoted(emphasis)}"


def of_unused(request: Request, guided: bool, num_steps: int) -> Iterator[str]:
    """Of what was asked and does nothing. guided: there is a negative row."""
    said = [name for name, nothing in _NEGATIVE.items() if getattr(request, name) != nothing]
    if said and not guided:
        yield f"ignored without guidance (a scale above 1): {', '.join(said)}"
    elif "negative_prompt_strength" in said and not {"negative_prompt", "negative_prompt_2"} & set(said):
        yield "negative_prompt_strength does nothing without a negative_prompt"
    if request.preview_every >= num_steps:
        yield f"preview_every of {request.preview_every}: no preview falls before the last of {num_steps} steps"
    if request.seed >= 2**32:
        yield f"only the low 32 bits of a seed count: {request.seed} paints as {request.seed % 2**32}"


def of_edge(request: Request, settled: Pixels) -> Iterator[str]:
    """Of the mask's levels below REPAINT; settled: the mask as it is used."""
    mask = request.mask_image
    assert mask is not None
    dropped = mask[(settled == 0) & (mask > 0)]
    if dropped.size:
        yield (
            f"{dropped.size} pixels of the mask, of levels up to {dropped.max()}, are no soft edge of what is "
            "repainted: they are kept"
        )
    faint = np.count_nonzero((settled > 0) & (settled < REPAINT)) / (request.height * request.width)
    if faint > 0.5:
        yield f"{100 * faint:.0f}% of the picture is a soft edge of the mask: blended, not repainted"


def of_feather(request: Request, mask: Pixels, alpha: Pixels, borders: masks.Borders) -> Iterator[str]:
    """Of a mask that is narrower than its feather. mask, alpha: of the crop.

    Raises InvalidRequest if nothing is left.
    """
    width = request.mask_feather
    lost = masks.thin(mask, width, borders) if width else 0
    if not lost:
        return
    most = int(alpha.max())
    if most == 0:
        raise InvalidRequest("mask_feather", f"{width} is so much wider than the mask that nothing would change")
    if lost == np.count_nonzero(mask >= REPAINT):
        yield f"a mask_feather of {width} is wider than the mask: what is painted shows by {most / 2.55:.1f}% at most"
    else:
        yield f"parts of the mask are thinner than a mask_feather of {width}: {lost} pixels of them hardly change"


def of_crop(request: Request, mask: Pixels, size: SizeSpec) -> Iterator[str]:
    """Of a few pixels far from the rest, for which the crop is large."""
    repainted = mask >= REPAINT
    total = np.count_nonzero(repainted)
    few = max(total // 100, min(4, total // 8))
    box = tuple(_without(repainted.sum(axis=axis), few) for axis in (1, 0))
    far = repainted.copy()
    far[box] = False
    if not far.any():
        return
    crops = [
        canvases.choose(request.height, request.width, part, size, request.padding_mask_crop, request.offset)
        for part in (repainted, repainted & ~far)
    ]
    if 2 * crops[1].height * crops[1].width < crops[0].height * crops[0].width:
        row, column = (int(index[0]) + start for index, start in zip(np.nonzero(far), request.offset, strict=True))
        yield (
            f"the crop is {crops[0].width}x{crops[0].height}, not {crops[1].width}x{crops[1].height}, for "
            f"{np.count_nonzero(far)} of the mask's pixels, far from the rest, as at row {row}, column {column}"
        )


def _without(counts: np.ndarray[tuple[int], np.dtype[np.int_]], few: int) -> slice:
    """The part of a side that leaves out up to so many pixels at either end."""
    below = np.cumsum(counts)
    return slice(int(np.argmax(below > few)), int(np.argmax(below >= below[-1] - few)) + 1)


def _quoted(words: list[str]) -> str:
    """The first of them, each once."""
    different = list(dict.fromkeys(words))
    more = ", ..." if len(different) > QUOTED else ""
    return ", ".join(repr(word[:QUOTED_LENGTH]) for word in different[:QUOTED]) + more
