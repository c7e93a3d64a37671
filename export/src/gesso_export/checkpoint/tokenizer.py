"""The tokenizer of a checkpoint as one tokenizer.json that the `tokenizers` library reads by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso_export.bundle.manifest import TokenizerSpec
from gesso_export.checkpoint.checkpoint import Component
from gesso_export.checkpoint.embeddings import Embedding
from gesso_export.errors import CheckpointError, first_line

FILE = "tokenizer.json"


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer and what it is to become."""

    component: Component
    max_length: int  # tokens of a text
    vocabulary: int = 0  # rows of the text encoder's token table, without embeddings
    embeddings: tuple[Embedding, ...] = ()


def write(source: TokenizerSource, bundle: Path) -> TokenizerSpec:
    """Write `<component>/tokenizer.json` into the bundle, with the tokens of the embeddings after the vocabulary's.

    Encoding with it adds the tokens of begin and end and neither truncates nor pads: the backend does, by the
    manifest's `max_length` and `pad_token_id`, because it reports what it cut.
    """
    tokenizer = _open(source.component)
    _add(tokenizer, source.vocabulary, source.embeddings)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    file = f"{source.component.name}/{FILE}"
    path = bundle / file
    path.parent.mkdir()
    path.write_text(backend.to_str(), encoding="utf-8")
    vectors = {embedding.token: len(embedding.vectors) for embedding in source.embeddings} or None
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return TokenizerSpec(file, source.max_length, *ends, embeddings=vectors)


def _open(component: Component) -> Any:
    import transformers

    kind = transformers.T5Tokenizer if component.class_name.startswith("T5") else transformers.CLIPTokenizer
    try:
        return kind.from_pretrained(component.folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{component.name} cannot be loaded: {first_line(error)}") from error


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
