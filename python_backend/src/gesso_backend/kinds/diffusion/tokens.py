"""Prompts to token ids, with the `tokenizers` library alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gesso_backend.errors import BundleError
from gesso_backend.kinds.diffusion import tokenizer_file
from gesso_backend.kinds.diffusion.bundle import TokenizerSpec


@dataclass(frozen=True)
class Tokens:
    """A prompt as the text encoder takes it, in chunks of its own length."""

    ids: npt.NDArray[np.int64]  # [chunks, length]
    weights: npt.NDArray[np.float32]  # [chunks, length]
    cut: str  # the text that did not fit; "" if all did


class PromptTokenizer:
    """A bundle's tokenizer. Thread-safe: encoding has no state.

    Raises BundleError for a file that gesso-export would not write, or that is not the manifest's.
    """

    def __init__(self, folder: Path, spec: TokenizerSpec) -> None:
        self._tokenizer = tokenizer_file.load(folder / spec.file)
        self._spec = spec
        size = self._tokenizer.get_vocab_size() + sum((spec.embeddings or {}).values())
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if (getattr(spec, name) or 0) >= size:
                raise BundleError(f"{spec.file}: has {size} tokens, so {name} cannot be {getattr(spec, name)}")
        for token in spec.embeddings or {}:
            if self._tokenizer.token_to_id(token) is None:
                raise BundleError(f"{spec.file}: has no token {token!r}, for which there are embeddings")
        # A textual inversion's vectors have the ids from its token's on.
        self._vectors = {self._tokenizer.token_to_id(token): count for token, count in (spec.embeddings or {}).items()}

    def encode(self, pieces: Sequence[tuple[str, float]], max_chunks: int = 1, length: int | None = None) -> Tokens:
        """Tokens of the pieces of a prompt, each with its weight.

        One chunk is truncated and padded as diffusers does. Several each have a start (where the tokenizer has one)
        and an end of their own, and as many tokens between as fit. length: of a chunk, if not the tokenizer's longest.
        """
        spec = self._spec
        length = length or spec.max_length
        begin = [] if spec.bos_token_id is None else [spec.bos_token_id]
        ids: list[int] = []
        weights: list[float] = []
        starts: list[int] = []  # where each token begins in the text
        text = ""
        for piece, weight in pieces:
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            for token, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
                count = self._vectors.get(token, 1)
                ids += range(token, token + count)
                weights += [weight] * count
                starts += [len(text) + start] * count
            text += piece
        room = length - len(begin) - 1
        chunks = max(1, min(-(-len(ids) // room), max_chunks))
        cut = text[starts[chunks * room] :].strip() if len(ids) > chunks * room else ""
        padded = np.full((chunks, length), spec.pad_token_id, np.int64)
        weighed = np.ones((chunks, length), np.float32)
        for chunk in range(chunks):
            inside = slice(chunk * room, (chunk + 1) * room)
            whole = [*begin, *ids[inside], spec.eos_token_id]
            padded[chunk, : len(whole)] = whole
            weighed[chunk, len(begin) : len(whole) - 1] = weights[inside]
        return Tokens(padded, weighed, cut)


def open_tokenizers(folder: Path, specs: Mapping[str, TokenizerSpec]) -> dict[str, PromptTokenizer]:
    """The tokenizer of each of a bundle's text encoders. Raises BundleError naming the file."""
    return {encoder: PromptTokenizer(folder, spec) for encoder, spec in specs.items()}
