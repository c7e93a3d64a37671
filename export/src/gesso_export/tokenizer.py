"""The tokenizer of a checkpoint as one tokenizer.json that the `tokenizers` library reads by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gesso_export.checkpoint import Component
from gesso_export.embeddings import Embedding
from gesso_export.errors import CheckpointError, first_line
from gesso_export.manifest import TokenizerSpec

FILE = "tokenizer/tokenizer.json"


def write(
    component: Component, max_length: int, bundle: Path, vocabulary: int = 0, embeddings: Sequence[Embedding] = ()
) -> TokenizerSpec:
    """Write `tokenizer/tokenizer.json` into the bundle, with the tokens of `embeddings` after the `vocabulary`'s.

    Encoding with it adds the begin and end tokens and neither truncates nor pads: the backend does, by the manifest's
    `max_length` and `pad_token_id`, because it reports what it cut.
    """
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(component.folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"tokenizer cannot be loaded: {first_line(error)}") from error
    _add(tokenizer, vocabulary, embeddings)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    path = bundle / FILE
    path.parent.mkdir()
    path.write_text(backend.to_str(), encoding="utf-8")
    vectors = {embedding.token: len(embedding.vectors) for embedding in embeddings} or None
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return TokenizerSpec(FILE, max_length, *ends, embeddings=vectors)


def _add(tokenizer: Any, vocabulary: int, embeddings: Sequence[Embedding]) -> None:
    """Give each vector the id of its row in the text encoder's table."""
    if not embeddings:
        return
    if len(tokenizer) != vocabulary:
        raise CheckpointError(f"tokenizer: has {len(tokenizer)} tokens, the text encoder {vocabulary}; no room to add")
    known = tokenizer.get_vocab()
    for embedding in embeddings:
        for token in embedding.tokens:
            if token in known:
                raise CheckpointError(f"embedding {embedding.token}: the tokenizer knows {token} already")
        tokenizer.add_tokens(embedding.tokens)
