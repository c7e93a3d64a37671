"""What families with CLIP text encoders share: prompts in chunks, emphasis, the strength of the negative prompt."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gesso_backend.arrays import Arrays, Floats
from gesso_backend.call import Call
from gesso_backend.kinds.diffusion.families.family import Encoded, Texts
from gesso_backend.kinds.diffusion.prompts import weighted
from gesso_backend.kinds.diffusion.request import Request
from gesso_backend.kinds.diffusion.tokens import PromptTokenizer

MAX_CHUNKS = 8  # of a long prompt: 600 tokens with CLIP's 75 to a chunk


def encode(
    prompts: Mapping[str, Mapping[str, str]],
    request: Request,
    tokenizers: Mapping[str, PromptTokenizer],
    compare_with_nothing: bool = False,
) -> Encoded:
    """Tokens of the prompts (text encoder -> field -> text), and a warning for the end of each that did not fit.

    All texts have as many chunks as the longest: the others are filled up with chunks of nothing. The empty text comes
    after them where they are to be compared with it.
    """
    most = MAX_CHUNKS if request.long_prompt else 1
    tokens = {
        encoder: {
            field: tokenizers[encoder].encode(
                weighted(text, field) if request.prompt_weighting else [(text, 1.0)], most
            )
            for field, text in fields.items()
        }
        for encoder, fields in prompts.items()
    }
    chunks = max(len(found.ids) for fields in tokens.values() for found in fields.values())
    limit = f" in each of {MAX_CHUNKS} chunks" if request.long_prompt else ""
    texts, warnings = {}, {}
    for encoder, fields in tokens.items():
        nothing = tokenizers[encoder].encode([("", 1.0)])
        rows = [*fields.values(), *([nothing] if compare_with_nothing else [])]
        texts[encoder] = Texts(
            np.stack([_filled(row.ids, nothing.ids, chunks) for row in rows]),
            np.stack([_filled(row.weights, nothing.weights, chunks) for row in rows]),
        )
        length = nothing.ids.shape[1]
        for field, found in fields.items():
            if found.cut:
                warnings[field] = f"{field} is over the limit of {length} tokens{limit}; cut: {found.cut!r}"
    return Encoded(texts, tuple(warnings.values()))


def run(encoder: str, texts: Texts, clip_skip: Sequence[int]) -> Generator[Call, Arrays, dict[str, Floats]]:
    """Call a text encoder on every chunk of every text; clip_skip: of each text.

    Returns `prompt_embeds` [texts, tokens, width], weighed, and of whatever else it answers (a pooled vector) the
    first chunk's [texts, width].
    """
    count, chunks, length = texts.ids.shape
    ids = texts.ids.reshape(count * chunks, length)
    skip = np.repeat(np.array(clip_skip, np.int64), chunks)
    outputs = yield Call.cached(encoder, {"input_ids": ids, "clip_skip": skip})
    embeddings = _weigh(outputs["prompt_embeds"], texts.weights.reshape(count * chunks, length))
    answers = {name: array[::chunks] for name, array in outputs.items()}
    return {**answers, "prompt_embeds": embeddings.reshape(count, chunks * length, -1)}


def tempered(rows: Floats, strength: float) -> Floats:
    """[negative, prompt, nothing, ...] as [negative, prompt]: how far from nothing the negative prompt is."""
    if len(rows) < 3:
        return rows
    negative, prompt, nothing = rows
    return np.stack([nothing + np.float32(strength) * (negative - nothing), prompt])


def _filled(rows: npt.NDArray[Any], nothing: npt.NDArray[Any], chunks: int) -> npt.NDArray[Any]:
    """[n, length] as [chunks, length]."""
    return np.concatenate([rows] + [nothing] * (chunks - len(rows)))


def _weigh(embeddings: Floats, weights: Floats) -> Floats:
    """Each token's embedding [chunks, tokens, width] times its weight [chunks, tokens], each chunk's mean as it was.

    As Stable Diffusion web UI does it: without the mean all of the prompt would weigh more.
    """
    if (weights == 1).all():
        return embeddings
    scaled = embeddings * weights[..., None]
    means: list[Floats] = [array.mean(axis=(1, 2), keepdims=True, dtype=np.float32) for array in (embeddings, scaled)]
    weighed: Floats = scaled * (means[0] / means[1])
    return weighed
