"""The tokenizer of a checkpoint as one tokenizer.json that the `tokenizers` library reads by itself."""

from __future__ import annotations

from pathlib import Path

from gesso_export.checkpoint import Component
from gesso_export.errors import CheckpointError, first_line
from gesso_export.manifest import TokenizerSpec

FILE = "tokenizer/tokenizer.json"


def write(component: Component, max_length: int, bundle: Path) -> TokenizerSpec:
    """Write `tokenizer/tokenizer.json` into the bundle.

    Encoding with it adds the begin and end tokens and neither truncates nor pads: the backend does, by the manifest's
    `max_length` and `pad_token_id`, because it reports what it cut.
    """
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(component.folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"tokenizer cannot be loaded: {first_line(error)}") from error
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    path = bundle / FILE
    path.parent.mkdir()
    path.write_text(backend.to_str(), encoding="utf-8")
    return TokenizerSpec(FILE, max_length, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
