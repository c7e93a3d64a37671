"""Prompts to token ids, with the `tokenizers` library alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from gesso_backend.bundle import TokenizerSpec


class PromptTokenizer:
    """A bundle's tokenizer. Thread-safe: encoding has no state."""

    def __init__(self, folder: Path, spec: TokenizerSpec) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / spec.file))
        self._spec = spec

    def encode(self, prompt: str) -> tuple[npt.NDArray[np.int64], str]:
        """Ids [max_length], truncated and padded as diffusers does, and the text that did not fit ("" if all did)."""
        spec = self._spec
        encoding = self._tokenizer.encode(prompt)
        ids = list(encoding.ids)
        cut = ""
        if len(ids) > spec.max_length:
            cut = prompt[encoding.offsets[spec.max_length - 1][0] :].strip()
            ids = [*ids[: spec.max_length - 1], spec.eos_token_id]
        ids += [spec.pad_token_id] * (spec.max_length - len(ids))
        return np.array(ids, np.int64), cut
